"""I3 and I4 of design.md as a law: whatever is replayed, reordered, stale or killed."""

import shutil
import tempfile
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from catalog import Catalog, SampleSink, write_batch
from catalog.store import open_table
from catalog.transaction import Retry
from tests.fakes.rows import batch_rows

RUNS = ("run-a", "run-b")
ENGINES = ("cpu", "cuda")
BATCHES = 5
ROWS = 2
REQUESTED = {
    (run, i): sorted(batch_rows(i, size=ROWS, recipe=run)["image_id"].to_pylist())
    for run in RUNS
    for i in range(BATCHES)
}

runs = st.sampled_from(RUNS)
batches = st.integers(0, BATCHES - 1)
engines = st.sampled_from(ENGINES)
choices = st.lists(st.tuples(batches, engines), min_size=1, max_size=2 * BATCHES)
drivers = st.sampled_from([None, 1, 2])
fates = st.sampled_from(["lives", "lives", "dies before commit", "dies after commit"])


class Killed(Exception):
    """Stands for kill -9: nothing in the sink catches it."""


class SinkMachine(RuleBasedStateMachine):
    """Two runs, any number of writers; `shown` is what readers have seen and may never lose."""

    @initialize()
    def start(self):
        self.uri = Path(tempfile.mkdtemp(prefix="sink-law-"))
        self.drawn = {}
        self.shown = {}
        self.versions = {}
        self.sinks = {}
        SampleSink(self.uri, RUNS[0])
        for (run, batch), engine in product(REQUESTED, ENGINES):
            self.draw(run, batch, engine)

    @rule(run=runs, batch=batches, engine=engines)
    def draw(self, run, batch, engine):
        """A worker draws a batch, perhaps again; another engine gives other bytes."""
        rows = batch_rows(batch, size=ROWS, recipe=run, engine=engine)
        file = write_batch(self.uri, run_id=run, batch_index=batch, rows=rows)
        assert self.drawn.setdefault((run, batch, engine), file) == file

    @rule(run=runs, chosen=choices, fate=fates, driver=drivers)
    def publish(self, run, chosen, fate, driver):
        """A driver commits what it knows: in any order, with repeats, and may die around it."""
        self.commit(run, chosen, fate, driver)

    @rule(run=runs, chosen=choices, same=st.booleans(), theirs=choices, fate=fates, driver=drivers)
    def publish_on_a_stale_snapshot(self, run, chosen, same, theirs, fate, driver):
        """Another writer, of this run or the other, commits between our decision and our commit."""
        rival = run if same else next(name for name in RUNS if name != run)
        self.commit(run, chosen, fate, driver, lambda: self.commit(rival, theirs, "lives", None))

    @rule(run=runs)
    def resume(self, run):
        """A new driver commits exactly what it finds missing."""
        missing = set(range(BATCHES)) - SampleSink(self.uri, run).published()
        self.commit(run, [(batch, "cpu") for batch in sorted(missing)], "lives", None)
        assert SampleSink(self.uri, run).published() == set(range(BATCHES))

    @invariant()
    def readers_see_every_batch_once_and_whole_and_lose_none(self):
        if not hasattr(self, "uri"):
            return
        table = (
            Catalog(self.uri)
            .samples()
            .to_table(columns=["run_id", "batch_index", "image_id", "engine"])
        )
        seen = {}
        for row in table.to_pylist():
            seen.setdefault((row["run_id"], row["batch_index"]), []).append(row)
        for key, rows in seen.items():
            assert sorted(row["image_id"] for row in rows) == REQUESTED[key]
            assert len({row["engine"] for row in rows}) == 1  # of one drawing, not of two
        engines = {key: rows[0]["engine"] for key, rows in seen.items()}
        assert self.shown.items() <= engines.items()  # nothing lost, nothing replaced
        self.shown = engines
        for run in RUNS:
            published = SampleSink(self.uri, run).published()
            assert published == {batch for name, batch in seen if name == run}
        newest = open_table(self.uri, "samples").version()
        self.versions[newest] = len(table)
        oldest = min(self.versions)
        assert Catalog(self.uri, version=oldest).samples().count_rows() == self.versions[oldest]

    def teardown(self):
        if not hasattr(self, "uri"):
            return
        for run in RUNS:
            self.resume(run)
        self.readers_see_every_batch_once_and_whole_and_lose_none()
        assert set(self.shown) == set(REQUESTED)  # requested = published
        shutil.rmtree(self.uri)

    def commit(self, run, chosen, fate, driver, between=None):
        """Commit through the sink of a driver that lives on, or (None) of one made for this."""
        pending = [between] if between else []

        def on_step(step):
            if step == "before_commit" and pending:
                pending.pop()()
            if fate == f"dies {step.replace('_', ' ')}":
                raise Killed

        sink, steps = self.sinks.get((run, driver)) or self.sink(run)
        steps[:] = [on_step]
        if driver is not None:
            self.sinks[run, driver] = sink, steps
        try:
            sink.commit([self.drawn[run, batch, engine] for batch, engine in chosen])
        except Killed:
            return
        assert {batch for batch, _ in chosen} <= sink.published()

    def sink(self, run):
        """Return a sink and the list that its hook, the last of it, is looked up in."""
        steps = []
        retry = Retry(sleep=lambda _: None)
        return SampleSink(self.uri, run, retry=retry, on_step=lambda s: steps[-1](s)), steps


SinkMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes: -m slow does
    suppress_health_check=list(HealthCheck),
)
TestSink = SinkMachine.TestCase


@pytest.mark.slow
class TestSinkLong(SinkMachine.TestCase):
    settings = settings(
        max_examples=200,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
