"""Our sink, in one process: batches written and committed in the rhythm of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from source import BATCH, Source, main

from catalog import Catalog
from catalog.schema import SAMPLES
from catalog.sink import SampleSink, write_batch
from factory.sample.config import StreamConfig
from tests.fakes.rows import CLASSES, sample_row

RUN = "run-peers"
OWN = ("image_id", "class_name", "class_id", "seed", "recipe_index", "batch_slot", "image")
"""Columns that differ from row to row; the other 30 are a run's, and as wide as in a real one."""


def write(source: Source, folder: Path, form: str) -> Callable[[], object]:
    """What the catalog holds already is not asked for again, as in `factory.sample.run`."""
    whole = pa.Table.from_pylist([sample_row(0, batch_size=BATCH)] * BATCH, schema=_known())
    every = StreamConfig().commit_batches

    def work() -> None:
        place = folder / "data"
        sink, waiting = SampleSink(place, RUN), []
        held = sink.published()
        for index in range(-(-source.images // BATCH)):
            if index in held:
                continue
            rows = _rows(whole, source, index)
            waiting.append(write_batch(place, run_id=RUN, batch_index=index, rows=rows))
            if len(waiting) == every:
                sink.commit(waiting)
                waiting = []
        sink.commit(waiting)

    return work


def _known() -> pa.Schema:
    row = sample_row(0)
    return pa.schema([field.with_nullable(True) for field in SAMPLES if field.name in row])


def _rows(whole: pa.Table, source: Source, index: int) -> pa.Table:
    """Return batch `index` with all columns of a run's rows."""
    first = index * BATCH
    made = source.columns(first, first + BATCH)
    count = len(made["seed"])
    images = zip(made["image"], made["image_id"], strict=True)
    own: dict[str, Any] = {
        **made,
        "class_id": [CLASSES.index(name) for name in made["class_name"]],
        "recipe_index": range(first, first + count),
        "batch_slot": range(count),
        "image": [{"bytes": png, "path": f"{image_id}.png"} for png, image_id in images],
    }
    rows = whole.slice(0, count)
    for name in OWN:
        field = rows.schema.field(name)
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, field, pa.array(own[name], field.type))
    return rows


def ids(folder: Path, form: str) -> list[str]:
    """Return what a reader sees."""
    found = Catalog(folder / "data").samples().to_table(columns=["image_id"])
    return found["image_id"].to_pylist()


if __name__ == "__main__":
    main(write, ids, ("sink",))
