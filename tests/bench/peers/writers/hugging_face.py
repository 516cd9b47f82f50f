"""Hugging Face `datasets`: from a generator into its own folder, or into Parquet."""

from collections.abc import Callable
from pathlib import Path

from source import Source, main


def write(source: Source, folder: Path, form: str) -> Callable[[], object]:
    """`from_generator` writes Arrow files into a cache first; what follows copies them."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            "class_name": datasets.Value("string"),
            "seed": datasets.Value("int64"),
        }
    )

    def work() -> None:
        made = datasets.Dataset.from_generator(
            rows,
            gen_kwargs={"source": source},
            features=features,
            cache_dir=str(folder / "cache"),
            fingerprint="peers",  # a source holds a path that differs from run to run
        )
        if form == "save_to_disk":
            made.save_to_disk(str(folder / "data"))
        else:
            (folder / "data").mkdir(exist_ok=True)
            made.to_parquet(str(folder / "data" / "images.parquet"))

    return work


def rows(source: Source):
    """Yield samples as the Image feature takes them: bytes that are encoded already."""
    for sample in source.samples():
        yield {**sample, "image": {"bytes": sample["image"], "path": None}}


def ids(folder: Path, form: str) -> list[str]:
    """Return what a reader sees."""
    import datasets

    datasets.disable_progress_bars()
    if form == "save_to_disk":
        found = datasets.load_from_disk(str(folder / "data"))
    else:
        import pyarrow.parquet as pq

        return pq.read_table(folder / "data", columns=["image_id"])["image_id"].to_pylist()
    return list(found.select_columns("image_id")["image_id"])


if __name__ == "__main__":
    main(write, ids, ("save_to_disk", "to_parquet"))
