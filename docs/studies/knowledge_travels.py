"""One lab's knowledge at another, white cells: the command behind knowledge_travels.md.

python docs/studies/knowledge_travels.py --data wbc_pbc_full --output runs/knowledge

`--data` is a folder of Parquet files with the columns `image`, `image_id` and `class`, the central
256 px of PBC's frames. The cells that wbc-base never saw are those that its digests do not know.
"""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from typed import factory, sets

from factory.models.generator import EMBEDDED, open_generator
from factory.real.duplicates import Digests

PER_CLASS = 200
"""Drawn cells of each class, and as many of the source's."""


def unseen_rows(table: pa.Table) -> Iterator[bool]:
    """Yield of each row whether wbc-base never saw its image."""
    seen = open_generator(EMBEDDED["wbc-base"], name="wbc-base").seen
    codes = {code.tobytes() for code in seen.codes.T} if seen else set()
    for cell in table["image"].to_pylist():
        picture = Image.open(io.BytesIO(cell["bytes"])).convert("RGB")
        yield Digests.of([picture]).codes.T[0].tobytes() not in codes


def divide(data: Path, output: Path) -> None:
    """Write the unseen cells, and the first of each class of the seen ones, once."""
    if (output / "source" / "source.parquet").exists():
        return
    table = pa.concat_tables(map(pq.read_table, sorted(data.glob("*.parquet"))))
    unseen, taken = list(unseen_rows(table)), Counter[str]()
    source = []
    for row, name in enumerate(table["class"].to_pylist()):
        if not unseen[row] and taken[name] < PER_CLASS:
            taken[name] += 1
            source.append(row)
    for name, rows in (("unseen", [n for n, new in enumerate(unseen) if new]), ("source", source)):
        (output / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table.take(rows), output / name / f"{name}.parquet")


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.argument("more", nargs=-1)
def main(data: Path, output: Path, more: tuple[str, ...]) -> None:
    """Divide, draw and evaluate; MORE goes to `factory evaluate`, such as -- --set draws=20."""
    divide(data, output)
    catalog = output / "catalog"
    drawing = sets("guidance_scale=1", "num_inference_steps=10", "seed=1", "max_tries=3")
    factory("generate", "--catalog", str(catalog), "--num-images", str(8 * PER_CLASS), *drawing)
    config = Path(__file__).with_suffix(".yaml")
    factory(
        *("evaluate", "--config", str(config), "--data", str(output / "unseen")),
        *("--catalog", str(catalog), "--source", f"pbc={output / 'source'}"),
        *("--output", str(output / "study"), *more),
    )


if __name__ == "__main__":
    main()
