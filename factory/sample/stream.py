"""The stream: batches through Ray Data from sampling actors to files, as fast as actors draw.

    batch numbers -> SampleActor (a model each) -> encode, gate, write (CPU tasks) -> files

The plan travels as recipes and counts; what flows between the stages is one batch at a time, so
memory depends on the actors in flight and not on the number of images.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from catalog.sink import BatchFile, write_batch
from factory.errors import FactoryError
from factory.gate.gate import Judge
from factory.gate.registry import sections
from factory.gate.verdict import Verdict
from factory.monitor.on_ray import busy
from factory.sample.config import StreamConfig
from factory.sample.drawn import Drawn
from factory.sample.plan import Batch, Ranges
from factory.sample.prepare import Run
from factory.sample.rows import batch_rows

if TYPE_CHECKING:
    from factory.sample.engine import Engine


ENCODE_CPUS = 0.25
"""Share of a core reserved for an encoding task; actors leave it free."""


def stream_batches(
    run: Run, indices: Sequence[int] | NDArray[np.int64], config: StreamConfig
) -> Iterator[BatchFile]:
    """Draw, judge and write the batches with these indices; yield each file when it is written.

    Files come in any order. Nothing is published here: that is the sink's commit.

    Raises:
        FactoryError: from a worker, as it was raised there.
    """
    _quiet()
    todo = Ranges.of(indices)
    actors, resources = actor_pool(config.actors)
    written = (
        numbers(len(todo))
        .map_batches(
            SampleActor,
            fn_constructor_args=(run, todo),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            **resources,
        )
        .map_batches(write_drawn, fn_kwargs={"run": run}, batch_size=None, num_cpus=ENCODE_CPUS)
    )
    try:
        for row in written.iter_rows():
            yield BatchFile(**row)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error


def draw_here(
    run: Run, indices: Sequence[int] | NDArray[np.int64], _config: StreamConfig
) -> Iterator[BatchFile]:
    """Do in this process, batch by batch, what `stream_batches` does on Ray: the same files."""
    todo = Ranges.of(indices)
    actor = SampleActor(run, todo)
    for number in range(len(todo)):
        written = write_drawn(actor({COLUMN: np.array([number])}), run)
        yield BatchFile(**{name: values[0] for name, values in written.items()})


class SampleActor:
    """Holds one generator and draws a batch per call."""

    def __init__(self, run: Run, todo: Ranges) -> None:
        """Keep the plan; `todo` are the batch indices of this run."""
        self._run, self._todo = run, todo

    @cached_property
    def _engine(self) -> "Engine":
        """Loaded by the first batch: an error in an actor's __init__ reaches the driver as text."""
        from factory.models.generator import find_generator
        from factory.sample.engine import Engine

        config = self._run.config
        generator = find_generator(config.model, revision=config.revision)
        return Engine(generator, dtype=config.dtype, references=self._run.references)

    @cached_property
    def _judges(self) -> list[Judge]:
        """The gates that need a network or training images, loaded once for each actor."""
        return [gate.open() for gate in sections(self._run.config) if gate.heavy]

    def _judged(self, drawn: Drawn, batch: Batch) -> Drawn:
        """Return `drawn` with what these gates say beside the method's own verdicts."""
        classes = [request.recipe.class_name for request in batch.requests]
        every = [list(drawn.verdicts_of(number)) for number in range(len(drawn))]
        for judge in self._judges:
            for own, more in zip(every, judge(drawn.images, drawn.masks, classes), strict=True):
                own += more
        return replace(drawn, verdicts=every)

    def __call__(self, row: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        """Draw the batch that `row["number"]`, an array of one, points to."""
        batch = self._run.plan.batch(self._todo[int(row[COLUMN][0])])
        engine = self._engine  # loading is no drawing
        with busy(self._run.run_id, engine.device):
            drawn = self._judged(engine.draw(batch), batch)
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


def actor_pool(asked: int | None) -> tuple[int, dict[str, Any]]:
    """Return how many actors to run at most, and the resources of each.

    A GPU each where the cluster has any; else most of a core each, leaving room to encode.
    """
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if gpus:
        return asked or gpus, {"num_gpus": 1, "num_cpus": 1}
    cores = max(1, int(resources.get("CPU", 1)))
    return min(asked or cores, cores), {"num_cpus": 1 - ENCODE_CPUS}


def _quiet() -> None:
    """Leave progress to the run: Ray Data's own bars count blocks, not images."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else only its text reaches the driver
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and told once


def _cause(error: ray.exceptions.RayTaskError) -> BaseException:
    """Return the FactoryError inside a Ray error, or the Ray error itself."""
    cause: Any = error
    while isinstance(cause, BaseException):
        if isinstance(cause, FactoryError) and not isinstance(cause, ray.exceptions.RayTaskError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cast("BaseException", error)


MAX_BLOCKS = 20_000
"""Ray Data keeps a little state per block; beyond this a block carries several batches."""
COLUMN = "number"


class Numbers(Datasource):  # type: ignore[misc]
    """The numbers 0 .. count - 1, a block each as long as there are no more than `MAX_BLOCKS`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def estimate_inmemory_data_size(self) -> int:
        """Return bytes of all blocks together."""
        return 8 * self._count

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002 -- Ray passes it by name
    ) -> list[ReadTask]:
        """Return at most `parallelism` tasks that together yield every number once, in order."""
        step = max(1, -(-self._count // max(1, parallelism)))
        tasks = []
        for start in range(0, self._count, step):
            stop = min(start + step, self._count)
            metadata = BlockMetadata(
                num_rows=stop - start, size_bytes=8 * (stop - start), input_files=None,
                exec_stats=None,
            )  # fmt: skip
            tasks.append(
                ReadTask(
                    partial(_read, start, stop),
                    metadata,
                    schema=pa.schema([(COLUMN, pa.int64())]),
                    per_task_row_limit=per_task_row_limit,
                )
            )
        return tasks


def _read(start: int, stop: int) -> Iterator[pa.Table]:
    yield pa.table({COLUMN: pa.array(range(start, stop), pa.int64())})


def numbers(count: int) -> ray.data.Dataset:
    """Return the stream's source. It reserves no CPU, and one process reads it.

    `ray.data.range` takes a whole core for every read, and two runs on a small cluster then wait
    for each other: their actors hold the cores that their reads need (seen on 2 cores). Without a
    limit on concurrency every block would start a process of its own (200 MiB and a second each).
    """
    return ray.data.read_datasource(
        Numbers(count), num_cpus=0, concurrency=1, override_num_blocks=min(count, MAX_BLOCKS)
    )
