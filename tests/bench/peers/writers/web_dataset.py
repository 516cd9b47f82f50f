"""WebDataset: tar files of at most 10,000 images."""

from collections.abc import Callable
from pathlib import Path

from source import Source, main

SHARD = 10_000


def write(source: Source, folder: Path, form: str) -> Callable[[], object]:
    """One after another, as its `ShardWriter` does it."""
    import webdataset

    def work() -> None:
        (folder / "data").mkdir(exist_ok=True)
        pattern = str(folder / "data" / "images-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=SHARD, verbose=0) as sink:
            for sample in source.samples():
                told = {"class_name": sample["class_name"], "seed": sample["seed"]}
                sink.write({"__key__": sample["image_id"], "png": sample["image"], "json": told})

    return work


def ids(folder: Path, form: str) -> list[str]:
    """Return what a reader sees."""
    import webdataset

    shards = sorted(str(path) for path in (folder / "data").glob("*.tar"))
    return [sample["__key__"] for sample in webdataset.WebDataset(shards, shardshuffle=False)]


if __name__ == "__main__":
    main(write, ids, ("tar",))
