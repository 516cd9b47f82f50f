"""What a person sees of a run: progress in images, then what is there and what to try next."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console  # noqa: TID251 -- its type
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from catalog.place import local_path
from catalog.query import sql
from catalog.sheet import sheet_of
from catalog.table import Catalog
from factory.command_line import typed
from factory.gate.calibration import Calibration, calibration_of
from factory.monitor.on_ray import recorder_for
from factory.sample.prepare import Run
from factory.sample.run import RunProgress, Stream, execute
from factory.terminal import console as guarded_console
from factory.terminal import duration, one_line, rate

LINE_SECONDS = 5.0
"""Between progress lines where there is no terminal, as in a job's log."""
SHEET_PER_CLASS = 12
FEWEST_DRAWN = 4
"""Images of a class before anything is said of its losses."""


def follow(run: Run, *, stream: Stream | None = None) -> RunProgress:
    """Execute `run` with a progress display, print the summary, return the last progress.

    `stream` draws, see `execute`.
    """
    console = guarded_console(width=100)
    _say(console, f"{run.run_id}: {run.plan.num_images} images into {run.place.uri}")
    for line in run.said:
        _say(console, line)
    measured = calibration_of(run.generator)
    if measured and measured.thresholds == run.config.gates:
        _say(
            console, f"gates of the {measured.images} real images that {run.generator.name} learnt"
        )
    losses = Losses(measured)
    show = _Bar(console) if console.is_terminal else _Lines(console)
    progress = None
    try:
        with show:
            for progress in execute(run, stream=stream, recorder=recorder_for(os.environ)):
                for line in losses.lines(progress):
                    _say(console, line)
                show.update(progress)
    except KeyboardInterrupt:
        resume = typed("generate", "--resume", run.run_id, *place_words(run))
        _say(console, f"stopped; what was published stays. Go on with: {resume}")
        raise
    if progress is None:
        raise AssertionError("execute() yields at least once")
    _summary(console, run)
    return progress


def _say(console: Console, line: str) -> None:
    """Print text as it is: a path with [brackets] is no markup, and a long one can be copied."""
    console.print(one_line(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def describe(progress: RunProgress) -> str:
    """Return 'images/s, ETA, accepted, rejected per gate' of a run in one line."""
    eta = "-" if progress.eta_seconds is None else duration(progress.eta_seconds)
    rejected = ", ".join(f"{g} {n}" for g, n in sorted(progress.rejected_by_gate.items())) or "0"
    return (
        f"{rate(progress.images_per_second)} images/s, ETA {eta},"
        f" accepted {progress.accepted}, rejected {rejected}"
    )


class Losses:
    """Finds what a person should hear at once: a class that loses its images to a gate.

    Each class and gate is told once; so is that a run draws on.
    """

    def __init__(self, measured: Calibration | None) -> None:
        """`measured`: the real images' scores, to stand beside those of drawn ones."""
        self._measured, self._told = measured, set[tuple[str, str]]()
        self._requested: int | None = None

    def lines(self, progress: RunProgress) -> Iterator[str]:
        """Yield what is new since the last progress."""
        if self._requested is not None and progress.requested > self._requested:
            more = progress.requested - self._requested
            yield f"drawing on: {more} more images in place of refused ones"
        self._requested = progress.requested
        for name, counts in progress.by_class.items():
            for gate, (images, least, greatest) in counts.rejected.items():
                many = counts.drawn >= FEWEST_DRAWN and 2 * images >= counts.drawn
                if many and (name, gate) not in self._told:
                    self._told.add((name, gate))
                    yield (
                        f"{name}: {images} of {counts.drawn} images refused by the gate {gate}"
                        f" ({_span(least, greatest)}; {self._beside(name, gate)})"
                    )

    def _beside(self, name: str, gate: str) -> str:
        real = (self._measured.real if self._measured else {}).get(name, {}).get(gate)
        if real is None:
            return "its real images were not measured; --set gates=null refuses nothing"
        return f"real images of the class: {_span(real[0], real[2])}"


def _span(least: float, greatest: float) -> str:
    return f"{least:.3g}" if least == greatest else f"{least:.3g} to {greatest:.3g}"


class _Bar:
    """A live bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("drawing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, note="loading the generator")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, progress: RunProgress) -> None:
        done = progress.published + progress.drawn
        self._progress.update(
            self._task, total=progress.requested, completed=done, note=describe(progress)
        )


class _Lines:
    """A line every few seconds in a log."""

    def __init__(self, console: Console) -> None:
        self._console, self._last, self._said = console, 0.0, ""

    def __enter__(self) -> "_Lines":
        _say(self._console, "loading the generator ...")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, progress: RunProgress) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS or progress.complete:
            done = progress.published + progress.drawn
            line = f"{done}/{progress.requested} images, {describe(progress)}"
            if line != self._said:
                _say(self._console, line)
            self._last, self._said = now, line


def _summary(console: Console, run: Run) -> None:
    catalog = Catalog(run.place)
    rows = _class_rows(catalog, run)
    console.print(_class_table(rows, run.run_id))
    for name, asked, drawn, accepted in rows:
        if accepted < asked:
            tries = run.config.max_tries or 1
            _say(
                console,
                f"{name} lacks {asked - accepted} of {asked} images: {drawn} were drawn, max_tries"
                f" is {tries}; look at the refused ones, then change gates or max_tries",
            )
    sheet = _write_sheet(catalog, run)
    example = sql(
        catalog, f"SELECT image_id FROM samples WHERE run_id = '{run.run_id}' ORDER BY 1 LIMIT 1"
    )
    image_id = example["image_id"][0].as_py()
    _say(console, f"catalog  {run.place.uri} (version {catalog.version})")
    if sheet:
        _say(console, f"sheet    {sheet}")
    console.print("try next", style="bold")
    query = "SELECT class_name, count(*), avg(blur_score) FROM samples GROUP BY ALL"
    for words in (
        ("catalog", "sql", query),
        ("catalog", "show", image_id),
        ("regenerate", image_id),
        ("gallery",),
    ):
        _say(console, f"  {typed(*words, *place_words(run))}")


def place_words(run: Run) -> list[str]:
    """Return the options that name the run's catalog."""
    return run.place.words


def _class_rows(catalog: Catalog, run: Run) -> list[tuple[str, int, int, int]]:
    """Return (class, asked, drawn, accepted) of a run, class by class."""
    wanted = Counter[str]()
    for quota in run.plan.quotas:
        wanted[quota.recipe.class_name] += quota.count
    found = sql(
        catalog,
        "SELECT class_name, count(*) AS drawn, count(*) FILTER (gate_status = 'accepted')"
        f" AS accepted FROM samples WHERE run_id = '{run.run_id}' GROUP BY ALL ORDER BY 1",
    ).to_pylist()
    return [(r["class_name"], wanted[r["class_name"]], r["drawn"], r["accepted"]) for r in found]


def _class_table(rows: Sequence[tuple[str, int, int, int]], run_id: str) -> Table:
    table = Table("class", "asked", "drawn", "accepted", "rejected", title=run_id)
    for name, asked, drawn, accepted in rows:
        numbers = (asked, drawn, accepted, drawn - accepted)
        table.add_row(Text(one_line(name)), *map(str, numbers))
    return table


def _write_sheet(catalog: Catalog, run: Run) -> Path | None:
    """Write the run's contact sheet beside a local catalog; None for a remote one."""
    folder = local_path(run.place.uri)
    if folder is None:
        return None
    path = folder / "sheets" / f"{run.run_id}.png"
    sheet_of(catalog, path, where=f"run_id = '{run.run_id}'", per_class=SHEET_PER_CLASS)
    return path
