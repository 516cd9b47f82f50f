"""Ray Data's own writers: a range, `map_batches` to make the columns, Delta or Parquet."""

from collections.abc import Callable
from pathlib import Path

from source import BATCH, Source, main


def write(source: Source, folder: Path, form: str) -> Callable[[], object]:
    """Both append, as they do unless they are told otherwise. The start of Ray is not timed."""
    import ray

    _start()

    def work() -> None:
        made = ray.data.range(source.images).map_batches(
            lambda rows: source.columns_of(rows["id"].tolist()), batch_size=BATCH
        )
        if form == "write_delta":
            made.write_delta(str(folder / "data"))
        else:
            made.write_parquet(str(folder / "data"))

    return work


def ids(folder: Path, form: str) -> list[str]:
    """Return what a reader sees; of a table the files that its log names, read without Ray."""
    import deltalake
    import pyarrow.dataset

    place = str(folder / "data")
    if form == "write_delta":
        found = deltalake.DeltaTable(place).to_pyarrow_dataset()
    else:
        found = pyarrow.dataset.dataset(place, format="parquet")
    return found.to_table(columns=["image_id"])["image_id"].to_pylist()


def _start() -> None:
    import logging

    import ray

    ray.init(include_dashboard=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


if __name__ == "__main__":
    main(write, ids, ("write_delta", "write_parquet"))
