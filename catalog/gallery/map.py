"""The map: what a browser draws it from, as few bytes, and what a part of it holds."""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalog.features import Map
from catalog.gallery.filters import Filters, NotHere
from catalog.gallery.index import Index, View
from catalog.gallery.listing import COLUMNS, releases_of
from catalog.gallery.reals import Reals
from catalog.query import quoted

MOST_POINTS = 200_000
"""Of more images every so many are drawn, always the same ones, and the page says so."""
COLOURS = 10
"""Classes that have a colour of their own, those of most images; the others share one."""
LAYERS = ("accepted", "rejected", "near copies", "real")
_LAYER = (
    "CASE WHEN list_contains(gates, 'copy') THEN 2 WHEN gate_status = 'accepted' THEN 0 ELSE 1 END"
)
_LEFT_OUT = 0.5
"""Per cent at either end of an axis that the first look leaves out: a few stray far away."""
_GRID = 65535
SHOWN, NAMED = 24, 100
"""Images of a part that are shown; up to so many it is told by their ids."""
_PLAIN = re.compile(r"[^\"$`\\!]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What the map shows."""

    classes: list[tuple[str, int]]
    """Name and images, most first."""
    layers: list[tuple[str, int]]
    total: int
    lacking: int
    """Images that have no features yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a part of the map holds."""

    total: int
    classes: list[tuple[str, int]]
    rows: list[dict[str, Any]]
    condition: str
    """In SQL."""
    commands: list[str]
    """As typed."""


def legend_of(index: Index, view: View, filters: Filters) -> Legend:
    """Return the classes and layers of the images that pass the filters, and how many there are."""
    held, values = filters.condition(view)
    rows = index.ask(
        f"SELECT class_name AS name, {_LAYER} AS layer, count(*) AS n FROM images"
        f" JOIN points USING (image_id) WHERE {held} GROUP BY ALL",
        values,
    )
    classes: dict[str, int] = {}
    layers = [0] * 3
    for row in rows:
        classes[row["name"]] = classes.get(row["name"], 0) + row["n"]
        layers[row["layer"]] += row["n"]
    (whole,) = index.ask(f"SELECT count(*) AS n FROM images WHERE {held}", values)
    total = sum(layers)
    return Legend(
        classes=sorted(classes.items(), key=lambda item: (-item[1], item[0])),
        layers=[(name, n) for name, n in zip(LAYERS[:3], layers, strict=True) if n],
        total=total,
        lacking=whole["n"] - total,
    )


def points_of(index: Index, view: View, filters: Filters) -> bytes:
    """Return the images that pass the filters as `packed` gives them, numbered by their place."""
    held, values = filters.condition(view)
    source = f"FROM images JOIN points USING (image_id) WHERE ({held})"
    (whole,) = index.ask(f"SELECT count(*) AS n {source}", values)
    step = -(-whole["n"] // MOST_POINTS)
    some = f" AND hash(image_id) % {step} = 0" if step > 1 else ""
    rows = index.table(
        f"SELECT x, y, place, class_name, {_LAYER}::UTINYINT AS layer {source}{some}", values
    )
    names = pc.dictionary_encode(rows["class_name"].combine_chunks())
    return packed(
        np.stack([rows[axis].to_numpy() for axis in ("x", "y")], axis=1),
        rows["place"].to_numpy().astype(np.uint32),
        names.indices.to_numpy().astype(np.int64),
        names.dictionary.to_pylist(),
        rows["layer"].to_numpy(),
        whole=whole["n"],
    )


def reals_of(reals: Reals, found: Map) -> bytes:
    """Return the real images as `packed` gives them, numbered as in their data set; maybe none.

    Raises:
        DataError: the data set cannot be read.
    """
    placed = reals.on_map(found)
    if placed is None:
        return packed(np.zeros((0, 2), np.float32), _none(), _none(), [], _none(), whole=0)
    names = pa.array(placed[1], pa.string()).dictionary_encode()
    count = len(placed[0])
    return packed(
        placed[0], np.arange(count, dtype=np.uint32), names.indices.to_numpy().astype(np.int64),
        names.dictionary.to_pylist(), np.full(count, LAYERS.index("real"), np.uint8), whole=count,
    )  # fmt: skip


def packed(
    places: NDArray[np.float32],
    numbers: NDArray[Any],
    classes: NDArray[Any],
    names: list[str],
    layers: NDArray[Any],
    *,
    whole: int,
) -> bytes:
    """Return points (N, 2) in eight bytes each, layer after layer and class after class.

    Little-endian: the length of the header (4 bytes); the header, JSON: `n`, `whole` (images that
    pass, where not all are sent), `names` of classes, `box` (least x, y, greatest x, y), `look`
    (the part of it to look at first), `runs` ([layer, class, points] in order); then x and y
    (uint16 each, of the box), numbers (uint32).
    """
    order = np.lexsort((classes, layers))
    placed, numbers = places[order], numbers[order].astype("<u4")
    least, greatest = _ends(placed, 0), _ends(placed, 100)
    inner = [_ends(placed, _LEFT_OUT), _ends(placed, 100 - _LEFT_OUT)]
    keys = np.stack([layers[order].astype(np.int64), classes[order]], axis=1)
    kinds, counts = _runs(keys)
    size = np.where(greatest > least, greatest - least, 1)
    grid = np.rint((placed - least) / size * _GRID).astype("<u2")
    header = json.dumps(
        {
            "n": len(placed), "whole": whole, "names": names,
            "box": [*least.tolist(), *greatest.tolist()],
            "look": [*inner[0].tolist(), *inner[1].tolist()],
            "runs": [[*kind, count] for kind, count in zip(kinds, counts, strict=True)],
        }
    ).encode()  # fmt: skip
    header += b" " * (-len(header) % 4)
    start = len(header).to_bytes(4, "little") + header
    return b"".join([start, grid[:, 0].tobytes(), grid[:, 1].tobytes(), numbers.tobytes()])


def chosen_of(index: Index, view: View, filters: Filters, found: Map) -> Chosen:
    """Return what the filters leave, in a part of the map, with the SQL that leaves the same."""
    held, values = filters.condition(view)
    source = f"FROM images JOIN points USING (image_id) WHERE ({held})"
    classes = index.ask(
        f"SELECT class_name AS name, count(*) AS n {source} GROUP BY 1 ORDER BY n DESC, 1", values
    )
    total = sum(row["n"] for row in classes)
    # spread over all of them, and the same ones every time
    rows = index.ask(f"SELECT {COLUMNS} {source} ORDER BY hash(image_id) LIMIT {SHOWN}", values)
    pinned = [r.where for r in releases_of(index) if r.name == filters.release]
    condition = " AND ".join([*(f"({where})" for where in pinned), filters.sql(found.digest)])
    if 0 < total <= NAMED:
        ids = index.ask(f"SELECT DISTINCT image_id {source} ORDER BY 1", values)
        condition = f"image_id IN ({', '.join(quoted(row['image_id']) for row in ids)})"
    return Chosen(
        total=total,
        classes=[(row["name"], row["n"]) for row in classes],
        rows=rows,
        condition=condition,
        commands=_commands(
            condition, view if filters.release or filters.version is not None else None, index
        ),
    )


def image_at(index: Index, epoch: str, number: int) -> dict[str, Any]:
    """Return the row of the index that a point of the map stands for.

    Raises:
        NotHere: the map is of an earlier start, or there is no such image.
    """
    rows = []
    if epoch == index.points.epoch:
        rows = index.ask(
            f"SELECT {COLUMNS} FROM images WHERE place = ? AND image_id NOT IN (FROM hidden)",
            [number],
        )
    if not rows:
        raise NotHere("this point is of an earlier map", remedy="Load the map again")
    return rows[0]


def _commands(condition: str, older: View | None, index: Index) -> list[str]:
    where = f'"{condition}"' if _PLAIN.fullmatch(condition) else shlex.quote(condition)
    view = "" if older is None else f" --version {older.catalog.version}"
    end = f"{view} --catalog {shlex.quote(index.place.uri)}"
    return [
        f"factory catalog sheet --where {where} --out chosen.png{end}",
        f"factory export imagefolder --where {where} --out chosen{end}",
    ]


def _ends(placed: NDArray[np.float32], percent: float) -> NDArray[np.float32]:
    """Return a percentile of x and of y, (2,)."""
    if len(placed) == 0:
        return np.zeros(2, np.float32)
    return np.asarray(np.percentile(placed, percent, axis=0), np.float32)


def _runs(keys: NDArray[np.int64]) -> tuple[list[list[int]], list[int]]:
    """Return the rows of sorted `keys` (N, 2), each once, and how often each comes."""
    kinds, counts = np.unique(keys, axis=0, return_counts=True)
    return kinds.tolist(), counts.tolist()


def _none() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)
