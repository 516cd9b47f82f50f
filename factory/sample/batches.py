"""Batches to files: what an actor draws and an encoder writes; in this process, one after another.

`factory.sample.stream` sends the same work over Ray, which need not be imported here.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.sink import BatchFile, write_batch
from factory.gate.gate import Judge
from factory.gate.registry import sections
from factory.gate.verdict import Verdict
from factory.monitor.on_ray import busy
from factory.sample.config import StreamConfig
from factory.sample.drawn import Drawn
from factory.sample.plan import Batch, Ranges
from factory.sample.prepare import Run, drawn_by
from factory.sample.rows import batch_rows

if TYPE_CHECKING:
    from factory.models.generator import Generator
    from factory.sample.engine import Engine

NUMBER = "number"
"""Column of the stream's source: which batch of those that are to be drawn."""


def draw_here(
    run: Run, indices: Sequence[int] | NDArray[np.int64], _config: StreamConfig
) -> Iterator[BatchFile]:
    """Do in this process, batch by batch, what `stream_batches` does on Ray: the same files."""
    yield from drawn_by_one(run, indices, Kept())


def drawn_by_one(
    run: Run, indices: Sequence[int] | NDArray[np.int64], kept: "Kept"
) -> Iterator[BatchFile]:
    """Do it with what is loaded already, as far as it is the run's."""
    todo = Ranges.of(indices)
    actor = SampleActor(run, todo, kept)
    for number in range(len(todo)):
        written = write_drawn(actor({NUMBER: np.array([number])}), run)
        yield BatchFile(**{name: values[0] for name, values in written.items()})


class Kept:
    """What a process has loaded to draw: the next run of the same generator finds it there.

    An image depends on its request alone, so what an engine drew before changes nothing.
    """

    def __init__(self) -> None:
        self.loads = 0
        """Engines that were loaded."""
        self._generator: tuple[Any, Generator] | None = None
        self._engine: tuple[Any, Engine] | None = None
        self._judges: tuple[Any, list[Judge]] | None = None

    def generator(self, run: Run) -> "Generator":
        """Return the run's generator where it lies on this machine."""
        key = _generator_key(run)
        if self._generator is None or self._generator[0] != key:
            self._generator = key, drawn_by(run.config)
        return self._generator[1]

    def engine(self, run: Run) -> "Engine":
        """Return the run's engine, which shows its references.

        Raises:
            ConfigError, ModelError: see `Engine`.
        """
        from factory.sample.engine import Engine

        dtype, offload = run.config.dtype, run.config.stream.offload
        key = _generator_key(run), dtype, offload
        if self._engine is None or self._engine[0] != key:
            self._engine = None  # two would need twice the memory
            self._engine = key, Engine(self.generator(run), dtype=dtype, offload=offload)
            self.loads += 1
        self._engine[1].show(run.references)
        return self._engine[1]

    def judges(self, run: Run) -> list[Judge]:
        """Return the run's gates that need a network or training images."""
        heavy = [gate for gate in sections(run.config) if gate.heavy]
        key = _generator_key(run), heavy
        if self._judges is None or self._judges[0] != key:
            known = [gate.of(self.generator(run).folder) for gate in heavy]
            self._judges = key, [gate.open() for gate in known if gate is not None]
        return self._judges[1]


def _generator_key(run: Run) -> tuple[Any, ...]:
    """Return what names a generator and what is folded into it."""
    config = run.config
    folded = config.lora, config.lora_scale
    return run.generator.model_id, config.model, config.revision, *folded


class SampleActor:
    """Holds one generator and draws a batch per call."""

    def __init__(self, run: Run, todo: Ranges, kept: Kept | None = None) -> None:
        """Keep the plan; `todo` are the batch indices of this run, `kept` what is loaded."""
        self._run, self._todo = run, todo
        self._kept = kept or Kept()

    @cached_property
    def _engine(self) -> "Engine":
        """Loaded by the first batch: an error in an actor's __init__ reaches the driver as text."""
        return self._kept.engine(self._run)

    @cached_property
    def _judges(self) -> list[Judge]:
        """The gates that need a network or training images, loaded once for each actor."""
        return self._kept.judges(self._run)

    def _judged(self, drawn: Drawn, batch: Batch) -> Drawn:
        """Return `drawn` with what these gates say beside the method's own verdicts."""
        classes = [request.recipe.class_name for request in batch.requests]
        every = [list(drawn.verdicts_of(number)) for number in range(len(drawn))]
        for judge in self._judges:
            for own, more in zip(every, judge(drawn.images, drawn.masks, classes), strict=True):
                own += more
        return replace(drawn, verdicts=every)

    def drawn(self, batch: Batch) -> Drawn:
        """Return a batch with what the gates that need a network say of it."""
        engine = self._engine  # loading is no drawing
        with busy(self._run.run_id, engine.device):
            return self._judged(engine.draw(batch), batch)

    def __call__(self, row: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        """Draw the batch that `row["number"]`, an array of one, points to."""
        batch = self._run.plan.batch(self._todo[int(row[NUMBER][0])])
        drawn = self.drawn(batch)
        columns: dict[str, Any] = {
            "batch_index": np.full(len(drawn), batch.index),
            "engine": np.full(len(drawn), json.dumps(self._engine.fingerprint)),
            "image": drawn.images,
            "told": np.array([_told(drawn, number) for number in range(len(drawn))]),
        }
        return columns if drawn.masks is None else columns | {"mask": drawn.masks}


def write_drawn(drawn: dict[str, NDArray[Any]], run: Run) -> dict[str, Any]:
    """Encode, judge and write the batches of a block; return their `BatchFile`s as columns."""
    files, begun = [], run.facts
    if begun is None:
        raise AssertionError("a run that has not begun draws nothing")
    for index in dict.fromkeys(drawn["batch_index"].tolist()):
        rows = drawn["batch_index"] == index
        batch = run.plan.batch(int(index))
        facts = replace(begun, engine=json.loads(drawn["engine"][rows][0]))
        files.append(
            write_batch(
                run.place,
                run_id=facts.run_id,
                batch_index=batch.index,
                rows=batch_rows(batch, _again(drawn, rows), facts),
            )
        )
    columns = [asdict(file) for file in files]
    return {name: [column[name] for column in columns] for name in columns[0]}


def _told(drawn: Drawn, number: int) -> str:
    """Return what a method says of an image beside its pixels, as the text that travels."""
    verdicts = [asdict(verdict) for verdict in drawn.verdicts_of(number)]
    return json.dumps({"columns": drawn.facts(number), "verdicts": verdicts})


def _again(columns: dict[str, NDArray[Any]], rows: NDArray[np.bool_]) -> Drawn:
    """Return what a batch was drawn as, from the `rows` of a block that are its own."""
    told = [json.loads(text) for text in columns["told"][rows]]
    return Drawn(
        images=np.stack(list(columns["image"][rows])),
        masks=np.stack(list(columns["mask"][rows])) if "mask" in columns else None,
        columns={name: [each["columns"][name] for each in told] for name in told[0]["columns"]},
        verdicts=[[Verdict(**verdict) for verdict in each["verdicts"]] for each in told],
    )
