"""A generation run: plan it, stream it, publish it while it goes on, record what happened."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.counts import recipe_counts
from catalog.sink import BatchFile, SampleSink
from catalog.table import Catalog
from catalog.transaction import Retry
from factory.config import parse_config
from factory.errors import CatalogError, ConfigError
from factory.gate.registry import sections
from factory.models.generator import Generator, find_generator
from factory.monitor.recorder import NOTHING, Recorder, RunInfo
from factory.sample.config import GenerateConfig, StreamConfig
from factory.sample.options import draws_masks
from factory.sample.plan import Plan, plan_further
from factory.sample.prepare import (
    check_prompts,
    make_plan,
    run_id_of,
    with_classes,
    with_first_prompts,
    with_gates,
    with_seed,
)
from factory.sample.record import Figures, RunRecord
from factory.sample.references import References, check_generator, open_references
from factory.sample.rows import RunFacts

if TYPE_CHECKING:
    from factory.sample.stream import Work

StorageOptions = dict[str, str] | None
Stream = Callable[["Work", NDArray[np.int64], StreamConfig], Iterator[BatchFile]]
"""Draws batches of a run and yields their files as they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """Images of one class; `rejected` is gate -> (images, least score, greatest score)."""

    drawn: int = 0
    accepted: int = 0
    rejected: Mapping[str, tuple[int, float, float]] = field(default_factory=dict)

    def plus(self, told: Mapping[str, Any]) -> "ClassCounts":
        """Return the sum with what a `BatchFile` says of the class."""
        rejected = dict(self.rejected)
        for gate, (images, least, greatest) in told["rejected"].items():
            before, low, high = rejected.get(gate, (0, least, greatest))
            rejected[gate] = (before + images, min(low, least), max(high, greatest))
        return ClassCounts(
            drawn=self.drawn + told["drawn"],
            accepted=self.accepted + told["accepted"],
            rejected=rejected,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """Where a run stands. Counts of rejects are by gate, for this submission's images."""

    run_id: str
    requested: int
    published: int
    drawn: int
    accepted: int
    rejected_by_gate: dict[str, int]
    images_per_second: float
    seconds_commit: float
    seconds: float
    by_class: Mapping[str, ClassCounts]
    """What became of this submission's images, class by class."""
    complete: bool = False

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the last image, at the present rate; None before the first."""
        left = self.requested - self.published - self.drawn
        return left / self.images_per_second if self.images_per_second else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that can start: everything resolved, nothing drawn."""

    run_id: str
    config: GenerateConfig
    generator: Generator
    plan: Plan
    catalog_uri: str
    storage_options: StorageOptions = None
    references: References | None = None
    said: tuple[str, ...] = ()
    """What a person should know before anything is drawn."""


def prepare(
    config: GenerateConfig,
    catalog_uri: str,
    *,
    storage_options: StorageOptions = None,
    begun: bool = False,
) -> Prepared:
    """Resolve a configuration: find the generator, fix seed and thresholds, plan, name the run.

    `begun`: its thresholds were resolved when the run began, and stay.

    Raises:
        ConfigError, ModelError, DataError: see `make_plan`, `find_generator`, `open_references`,
            `check_bank`.
    """
    generator = find_generator(config.model, revision=config.revision)
    config = with_classes(with_seed(config), generator)
    config = config if begun else with_gates(config, generator)
    said = check_prompts(config, generator, begun=begun)
    references = None if config.data is None else open_references(config.data, config.split)
    if references is not None:
        check_generator(references, generator)
    masked = draws_masks(config.method or generator.method, config.options)
    for gate in sections(config):
        if masked or not gate.of_masks:  # `check_used` refuses the others
            gate.check(generator.manifest.get("split_digest"))
    plan = make_plan(config, generator, references)
    return Prepared(
        run_id=run_id_of(plan, config),
        config=config,
        generator=generator,
        plan=plan,
        catalog_uri=catalog_uri,
        storage_options=storage_options,
        references=_travelling(references, plan),
        said=tuple(said),
    )


def _travelling(references: References | None, plan: Plan) -> References | None:
    """Return those references that the plan shows."""
    recipes = [quota.recipe for quota in plan.quotas]
    shown = [name for recipe in recipes for name in (recipe.reference_id, recipe.target_id)]
    ids = [image_id for image_id in shown if image_id is not None]
    return references.only(ids) if references is not None and ids else None


def prepare_resume(
    run_id: str, catalog_uri: str, *, storage_options: StorageOptions = None
) -> Prepared:
    """Read a run's configuration back from the catalog.

    Raises:
        CatalogError: no such run.
        ConfigError: the generator's files are not those that the run began with.
    """
    row = Catalog(catalog_uri, storage_options).run(run_id)
    stored = parse_config(GenerateConfig, json.loads(str(row["config"])), where=f"run {run_id}")
    prepared = prepare(stored, catalog_uri, storage_options=storage_options, begun=True)
    if prepared.run_id != run_id:
        before = with_first_prompts(stored)
        prepared = prepare(before, catalog_uri, storage_options=storage_options, begun=True)
    if prepared.run_id != run_id:
        raise ConfigError(
            f"run {run_id} cannot go on: generator {stored.model!r} has other files now"
            f" (model_id {prepared.generator.model_id})"
            + (f", or the real images at {stored.data!r} other pixels" if stored.data else ""),
            remedy="Restore the generator's files, or start a new run",
        )
    return prepared


def execute(
    run: Prepared,
    *,
    stream: Stream | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    recorder: Recorder = NOTHING,
) -> Iterator[RunProgress]:
    """Draw and publish whatever of `run` the catalog does not hold yet; yield after every batch.

    What gates refused is replaced, plan after plan, as far as the run's `max_tries` go.

    `stream` draws: on Ray (None), or in this process (`draw_here`): the same rows. The last
    item says `complete`. Submitting a complete run again yields just that. `recorder` is told of
    every step.

    Raises:
        CatalogError: another run has drawn these very images, or the catalog cannot be written.
    """
    from factory.sample.stream import stream_batches  # Ray: not before a plan is checked

    _refuse_drawn_elsewhere(run, Catalog.create(run.catalog_uri, run.storage_options))
    record = RunRecord(
        run_id=run.run_id,
        config=run.config,
        generator=run.generator,
        num_requested=run.plan.num_images,
        catalog_uri=run.catalog_uri,
        storage_options=run.storage_options,
        now=now,
    )
    sink = SampleSink(
        run.catalog_uri, run.run_id, storage_options=run.storage_options, retry=_told(recorder)
    )
    tally, worked = _Tally(run, recorder=recorder), False
    for plan in _plans(run):
        todo = _missing(plan, sink)
        tally.plans(plan, todo)
        if len(todo) == 0:
            continue
        record = replace(record, num_requested=tally.requested)
        facts, worked = record.started(), True
        recorder.begun(_info(run, tally))
        try:
            for file in _published(run, plan, stream or stream_batches, facts, todo, sink, tally):
                tally.add(file)
                yield tally.progress()
        except BaseException as error:
            record.failed(tally.figures(), error)
            recorder.failed(error)
            raise
    if worked:
        record.completed(tally.figures())
        recorder.completed(version=Catalog(run.catalog_uri, run.storage_options).version)
    yield tally.progress(complete=True)


def _plans(run: Prepared) -> Iterator[Plan]:
    """Yield the run's plan, and what follows from the images it published, see `plan_further`.

    Each is asked for when all images of those before are published.
    """
    yield run.plan
    tries, plan = run.config.max_tries or 1, run.plan
    if run.plan.quotas[0].recipe.method == "bridge":  # its images are numbered by their depth
        return
    while tries > 1:
        stop = plan.indices.stop
        catalog = Catalog(run.catalog_uri, run.storage_options)
        found = recipe_counts(catalog, run.run_id, before_batch=stop)
        further = plan_further(run.plan, found, first_batch=stop, max_tries=tries)
        if further is None:
            return
        yield (plan := further)


def _published(
    run: Prepared,
    plan: Plan,
    stream: Stream,
    facts: RunFacts,
    todo: NDArray[np.int64],
    sink: SampleSink,
    tally: "_Tally",
) -> Iterator[BatchFile]:
    """Yield files as they are written, committing several at a time and the rest at the end."""
    from factory.sample.stream import Work

    work = Work(
        plan=plan,
        facts=facts,
        generator=run.config.model,
        revision=run.config.revision,
        dtype=run.config.dtype,
        catalog_uri=run.catalog_uri,
        storage_options=run.storage_options,
        references=run.references,
        gates=tuple(gate for gate in sections(run.config) if gate.heavy),
    )
    waiting: list[BatchFile] = []
    last = time.monotonic()
    for file in stream(work, todo, run.config.stream):
        waiting.append(file)
        yield file
        overdue = time.monotonic() - last > run.config.stream.commit_seconds
        if overdue or len(waiting) >= run.config.stream.commit_batches:
            tally.commit(sink, waiting)
            waiting, last = [], time.monotonic()
    if waiting:
        tally.commit(sink, waiting)


def _told(recorder: Recorder) -> Retry:
    """Return the sink's patience with rivals, of which `recorder` is told."""

    def sleep(seconds: float) -> None:
        recorder.retried()
        time.sleep(seconds)

    return Retry(sleep=sleep)


def _info(run: Prepared, tally: "_Tally") -> RunInfo:
    return RunInfo(
        run_id=run.run_id,
        catalog_uri=run.catalog_uri,
        model_id=run.generator.model_id,
        model_name=run.generator.manifest.get("name") or run.generator.folder.name,
        config_digest=run.config.digest,
        data=run.config.data,
        num_requested=tally.requested,
        num_published=tally.already + tally.drawn,
        num_batches=tally.left,
    )


def _missing(plan: Plan, sink: SampleSink) -> NDArray[np.int64]:
    """Return the batch indices that the catalog lacks: one bit a batch, whatever the rows."""
    missing = np.ones(plan.num_batches, bool)
    own = [index for index in sink.published() if index in plan.indices]
    missing[np.array(own, np.int64) - plan.first_batch] = False
    return np.flatnonzero(missing) + plan.first_batch


def _count(plan: Plan, todo: NDArray[np.int64]) -> int:
    """Return how many images the batches `todo` hold."""
    return sum(plan.batch_length(int(index)) for index in todo)


def _refuse_drawn_elsewhere(run: Prepared, catalog: Catalog) -> None:
    digests = [quota.recipe.digest for quota in run.plan.quotas]
    others = catalog.published_recipes(digests, besides=run.run_id)
    if others:
        raise CatalogError(
            f"run {min(others.values())} of this catalog has drawn the same recipes"
            f" (seed {run.config.seed}): their image ids would appear twice",
            remedy="Choose another seed (--set seed=...), or --resume that run",
        )


class _Tally:
    """Counts and times of one submission."""

    def __init__(self, run: Prepared, *, recorder: Recorder) -> None:
        self.run, self.recorder = run, recorder
        self.requested = self.already = 0
        self.left = self.waiting = 0
        self.drawn = self.accepted = 0
        self.rejected_by_gate: dict[str, int] = {}
        self.by_class: dict[str, ClassCounts] = {}
        self.seconds_commit = 0.0
        self.started = time.monotonic()
        self.first_file: float | None = None
        self.first_images = 0

    def plans(self, plan: Plan, todo: NDArray[np.int64]) -> None:
        self.requested += plan.num_images
        self.already += plan.num_images - _count(plan, todo)
        self.left = len(todo)

    def add(self, file: BatchFile) -> None:
        if self.first_file is None:  # the rate leaves out loading the model
            self.first_file, self.first_images = time.monotonic(), file.num_rows
        self.drawn += file.num_rows
        self.accepted += file.num_accepted
        for gate, count in json.loads(file.rejected_by_gate).items():
            self.rejected_by_gate[gate] = self.rejected_by_gate.get(gate, 0) + count
        for name, told in json.loads(file.by_class).items():
            self.by_class[name] = self.by_class.get(name, ClassCounts()).plus(told)
        self.left, self.waiting = self.left - 1, self.waiting + 1
        self.recorder.drawn(file, left=self.left, waiting=self.waiting)

    def commit(self, sink: SampleSink, files: list[BatchFile]) -> None:
        begun = time.monotonic()
        sink.commit(files)
        seconds = time.monotonic() - begun
        self.seconds_commit, self.waiting = self.seconds_commit + seconds, 0
        self.recorder.committed(files, seconds=seconds)

    def figures(self) -> Figures:
        progress = self.progress()
        sampling = progress.seconds - self.seconds_commit
        return Figures(
            seconds_sampling=sampling,
            seconds_commit=self.seconds_commit,
            images_per_second=self.drawn / max(sampling, 1e-9),
        )

    def progress(self, *, complete: bool = False) -> RunProgress:
        now = time.monotonic()
        seconds = max(now - self.started, 1e-9)
        rate, steady = self.drawn / seconds, now - (self.first_file or now)
        if 2 * steady > seconds:  # until then loading, and batches that come at once, say too much
            rate = (self.drawn - self.first_images) / steady
        return RunProgress(
            run_id=self.run.run_id,
            requested=self.requested,
            published=self.already,
            drawn=self.drawn,
            accepted=self.accepted,
            rejected_by_gate=dict(self.rejected_by_gate),
            by_class=dict(self.by_class),
            images_per_second=rate,
            seconds_commit=self.seconds_commit,
            seconds=seconds,
            complete=complete,
        )
