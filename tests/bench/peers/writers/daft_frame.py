"""Daft, on its own runner: a range, a function that makes the columns, Delta or Parquet."""

from collections.abc import Callable
from pathlib import Path

from source import BATCH, Source, main


def write(source: Source, folder: Path, form: str) -> Callable[[], object]:
    """Both append, as they do unless they are told otherwise."""
    import daft
    from daft import DataType, col

    kinds = {
        "image_id": DataType.string(),
        "image": DataType.binary(),
        "class_name": DataType.string(),
        "seed": DataType.int64(),
    }

    @daft.func.batch(return_dtype=DataType.struct(kinds), unnest=True, batch_size=BATCH)
    def made(numbers):
        import pyarrow as pa

        found = source.columns_of(numbers.to_pylist())
        return pa.StructArray.from_arrays([pa.array(found[name]) for name in kinds], list(kinds))

    def work() -> None:
        frame = daft.range(source.images).select(made(col("id")))
        if form == "write_deltalake":
            frame.write_deltalake(str(folder / "data"))
        else:
            frame.write_parquet(str(folder / "data"))

    return work


def ids(folder: Path, form: str) -> list[str]:
    """Return what a reader sees."""
    import daft

    read = daft.read_deltalake if form == "write_deltalake" else daft.read_parquet
    return read(str(folder / "data")).select("image_id").to_pydict()["image_id"]


if __name__ == "__main__":
    main(write, ids, ("write_deltalake", "write_parquet"))
