"""Which images a page shows: its address's parameters, checked, as a condition on the index."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from urllib.parse import urlencode

from catalog.gallery.index import View
from catalog.query import quoted
from catalog.schema import ACCEPTED, REJECTED
from factory.errors import CatalogError
from factory.gate.registry import all_scores


class BadAddress(CatalogError):
    """A parameter of the address cannot have this value: status 400."""


class NotHere(CatalogError):
    """The catalog has no such image, run or page: status 404."""


EXACT = {
    "class": "class_name",
    "run": "run_id",
    "recipe": "recipe_digest",
    "model": "model_id",
    "method": "method",
    "status": "gate_status",
}
"""Parameter -> the column whose value it is."""
RANGES = {
    "guidance": "guidance_scale",
    **{score.parameter or score.gate: score.column for score in all_scores()},
}
"""Parameter -> column; NAME_min and NAME_max bound it, both inclusive."""
SORTS = {"newest": ("place", True), "oldest": ("place", False)} | {
    f"{name}{end}": (column, bool(end)) for name, column in RANGES.items() for end in ("", "_down")
}
"""Parameter -> (column, descending). Images without the score are left out."""
REVIEWS = (ACCEPTED, REJECTED, "disputed", "none")
"""What people say of an image together; 'none' where nobody looked."""
OTHERS = ("reason", "review", "release", "version", "where", "box", "lasso", "sort")
PARAMETERS = (*EXACT, *(f"{name}{end}" for name in RANGES for end in ("_min", "_max")), *OTHERS)
_LONGEST = 2000
Corner = tuple[float, float]
"""x and y on the map."""
MOST_CORNERS = 40
"""Of a part that was drawn around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What was asked for. Empty means everything, newest first."""

    exact: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    """A gate that rejected the image."""
    review: str = ""
    """What people say of it, one of `REVIEWS`."""
    release: str = ""
    version: int | None = None
    where: str = ""
    """A condition on `samples`, in SQL."""
    box: tuple[float, float, float, float] | None = None
    """A rectangle of the map: least x and y, greatest x and y."""
    lasso: tuple[Corner, ...] = ()
    """Corners of a part of the map that was drawn around."""
    sort: str = "newest"

    @property
    def part(self) -> bool:
        """Whether a part of the map is asked for."""
        return self.box is not None or bool(self.lasso)

    def whole_map(self) -> "Filters":
        """Return the same filters on all of the map."""
        return replace(self, box=None, lasso=())

    def given(self) -> dict[str, str]:
        """Return the parameters that give these filters."""
        given = {name: self.exact[name] for name in EXACT if name in self.exact}
        given |= {name: repr(value) for name, value in self.bounds.items()}
        given |= {
            name: value
            for name in ("reason", "review", "release")
            if (value := getattr(self, name))
        }
        given |= {} if self.version is None else {"version": str(self.version)}
        given |= {"where": self.where} if self.where else {}
        given |= {} if self.box is None else {"box": ",".join(f"{end:.7g}" for end in self.box)}
        ends = (f"{end:.7g}" for corner in self.lasso for end in corner)
        given |= {"lasso": ",".join(ends)} if self.lasso else {}
        given |= {"sort": self.sort} if self.sort != "newest" else {}
        return given

    def query(self, **more: object) -> str:
        """Return the query of an address that gives these filters, with `more` parameters."""
        added = {name: str(value) for name, value in more.items() if value not in (None, "")}
        return urlencode(self.given() | added)

    def without_order(self) -> "Filters":
        """Return the same filters in the default order."""
        return replace(self, sort="newest")

    def condition(self, view: View) -> tuple[str, list[object]]:
        """Return the SQL condition on the index's `images` and its values."""
        terms: list[str] = []
        values: list[object] = []
        for name, value in self.exact.items():
            terms.append(f"{EXACT[name]} = ?")
            values.append(value)
        for name, bound in self.bounds.items():
            column, end = RANGES[name[:-4]], name[-3:]
            terms.append(f"{column} {'>=' if end == 'min' else '<='} ?")
            values.append(bound)
        if self.reason:
            terms.append("list_contains(gates, ?)")
            values.append(self.reason)
        if self.review == "none":
            terms.append("image_id NOT IN (SELECT image_id FROM reviewed)")
        elif self.review:
            terms.append("image_id IN (SELECT image_id FROM reviewed WHERE review = ?)")
            values.append(self.review)
        if self.part:
            at, ends = self._place()
            terms.append(f"image_id IN (SELECT image_id FROM points WHERE {at})")
            values += ends
        for selection in self._selections(view):
            terms.append("(image_id, run_id) IN (SELECT (image_id, run_id) FROM members"
                         " WHERE name = ?)")  # fmt: skip
            values.append(selection)
        if view.hides:
            terms.append("image_id NOT IN (FROM hidden)")
        terms.append("file < ?")  # others may have come since
        values.append(len(view.paths))
        if not view.whole:
            terms.append("file IN (SELECT file FROM shown WHERE view = ?)")
            values.append(view.name)
        condition = " AND ".join(terms)
        return _each_once(condition, values) if view.doubled else (condition, values)

    def _place(self) -> tuple[str, list[object]]:
        """Return the condition on the places of the map and its values."""
        terms, values = list[str](), list[object]()
        if self.box is not None:
            terms.append("x >= ? AND y >= ? AND x <= ? AND y <= ?")
            values += self.box
        if self.lasso:
            terms.append(within(self.lasso))
        return " AND ".join(terms), values

    def sql(self, space: str) -> str:
        """Return the condition on `samples` that leaves the same images, for `factory` to be typed.

        All but release and version, which are options of their own there.

        Args:
            space: digest of the features of the map.
        """
        terms = [f"{EXACT[name]} = {quoted(value)}" for name, value in self.exact.items()]
        for name, bound in self.bounds.items():
            terms.append(f"{RANGES[name[:-4]]} {'>=' if name[-3:] == 'min' else '<='} {bound:.9g}")
        if self.reason:
            gates = "list_transform(gate_reasons, lambda r: split_part(r, ':', 1))"
            terms.append(f"list_contains({gates}, {quoted(self.reason)})")
        if self.review:
            terms.append("review IS NULL" if self.review == "none" else f"review = '{self.review}'")
        if self.where:
            terms.append(f"({self.where})")
        places = [within(self.lasso)] if self.lasso else []
        if self.box is not None:
            left, low, right, high = (f"{end:.7g}" for end in self.box)
            places.append(f"x BETWEEN {left} AND {right} AND y BETWEEN {low} AND {high}")
        if places:
            terms.append(
                f"image_id IN (SELECT image_id FROM features WHERE space_digest = {quoted(space)}"
                f" AND {' AND '.join(places)})"
            )
        return " AND ".join(terms) or "true"

    def _selections(self, view: View) -> list[str]:
        """Return what the index calls the selections that an image must be in."""
        names = [release_name(self.release)] if self.release else []
        return [*names, *([condition_name(view.catalog.version, self.where)] if self.where else [])]


def within(corners: Sequence[Corner]) -> str:
    """Return in SQL whether x and y lie inside a polygon: a ray to the left meets an odd number.

    Where its line crosses itself, what is enclosed twice is outside.
    """

    def told(number: float) -> str:
        return f"({number!r}::DOUBLE)"

    found = []
    for (x, y), (next_x, next_y) in pairwise([*corners, corners[0]]):
        if y != next_y:  # a level edge meets no ray
            at = f"{told(x)} + {told((next_x - x) / (next_y - y))} * (y - {told(y)})"
            found.append(f"((y < {told(y)}) <> (y < {told(next_y)}) AND x < {at})::INT")
    xs, ys = zip(*corners, strict=True)
    around = " AND ".join(
        f"{axis} BETWEEN {told(min(ends))} AND {told(max(ends))}"
        for axis, ends in (("x", xs), ("y", ys))
    )
    return f"{around} AND ({' + '.join(found) or '0'}) % 2 = 1"


def _each_once(condition: str, values: list[object]) -> tuple[str, list[object]]:
    """Let the earlier run speak for an image that two published, as `Selection` does."""
    first = (
        "SELECT arg_min(place, (created_at, run_id)) FROM images"
        f" WHERE image_id IN (FROM doubles) AND ({condition}) GROUP BY image_id"
    )
    return (
        f"({condition}) AND (image_id NOT IN (FROM doubles) OR place IN ({first}))",
        [*values, *values],
    )


def release_name(name: str) -> str:
    """Return what the index calls the images of a release."""
    return f"release {name}"


def condition_name(version: int | None, where: str) -> str:
    """Return what the index calls the images of a version that satisfy an SQL condition."""
    return f"where {version}: {where}"


def filters_of(
    given: Sequence[tuple[str, str]], *, also: Sequence[str] = (), prefix: str = ""
) -> Filters:
    """Return the filters that an address asks for.

    Args:
        given: its parameters; empty ones count as left out.
        also: names of parameters that are not filters.
        prefix: of the names of the filters' parameters; others are not looked at, if it is given.

    Raises:
        BadAddress: an unknown or repeated parameter, or a value that it cannot have.
    """
    mine = [(k.removeprefix(prefix), v) for k, v in given if k.startswith(prefix)]
    known: dict[str, str] = {}
    for name, value in mine:
        if name not in PARAMETERS and name not in also:
            raise BadAddress(
                f"there is no parameter {name!r}",
                remedy=f"Choose of {', '.join((*PARAMETERS, *also))}",
            )
        if name in known and value:
            raise BadAddress(f"{name!r} is given twice", remedy="Give it once")
        if len(value) > _LONGEST or "\0" in value:
            raise BadAddress(
                f"{name!r} has {len(value)} characters, or one that no text has",
                remedy=f"Give at most {_LONGEST} letters",
            )
        if value.strip():
            known[name] = value.strip()
    review = known.get("review", "")
    if review and review not in REVIEWS:
        raise BadAddress(f"review is {review[:80]!r}", remedy=f"Choose of {', '.join(REVIEWS)}")
    sort = known.get("sort", "newest")
    if sort not in SORTS:
        raise BadAddress(f"nothing sorts by {sort!r}", remedy=f"Choose of {', '.join(SORTS)}")
    return Filters(
        exact={name: known[name] for name in EXACT if name in known},
        bounds={n: _number(n, known[n]) for n in PARAMETERS if n[-4:] in _ENDS and n in known},
        reason=known.get("reason", ""),
        review=review,
        release=known.get("release", ""),
        version=_version(known.get("version")),
        where=known.get("where", ""),
        box=_box(known.get("box")),
        lasso=_lasso(known.get("lasso")),
        sort=sort,
    )


_ENDS = ("_min", "_max")


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise BadAddress(f"{name} is {text!r}, which is no number", remedy="Give one like 0.25")
    return value


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise BadAddress(
            f"version is {text!r}", remedy="Give a number that `factory catalog history` lists"
        )
    return int(text)


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        left, low, right, high = (float(end) for end in text.split(","))
    except ValueError:
        left, low, right, high = (math.nan,) * 4
    if not (left <= right and low <= high and math.isfinite(right - left + high - low)):
        raise BadAddress(
            f"box is {text[:80]!r}", remedy="Give least x, least y, greatest x and greatest y"
        )
    return left, low, right, high


def _lasso(text: str | None) -> tuple[Corner, ...]:
    if text is None:
        return ()
    try:
        ends = [float(end) for end in text.split(",")]
    except ValueError:
        ends = [math.nan]
    even = len(ends) % 2 == 0 and 6 <= len(ends) <= 2 * MOST_CORNERS
    if not (even and all(abs(end) < 1e9 for end in ends)):
        raise BadAddress(
            f"lasso is {text[:80]!r}",
            remedy=f"Give x and y of 3 to {MOST_CORNERS} corners, with commas",
        )
    return tuple(zip(ends[::2], ends[1::2], strict=True))
