"""Where what others wrote becomes ours: names, paths and values of a catalog are data until here.

A catalog is made to be copied, so its rows may come from anybody. A name from a row never chooses
where something is written or read: paths of files and ids of runs are refused unless they stay
below the table, and files that are named after ids and classes get a name made here.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from catalog.schema import SAMPLES
from factory.digest import digest_bytes
from factory.errors import CatalogError
from factory.real.pixels import opened

LONGEST = 64
"""Characters of a plain name: with suffix and folders it fits every file system."""

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_OUTSIDE = r"(^|/)\.\.(/|$)|^/|^[A-Za-z][A-Za-z0-9+.-]*:|\\|[\x00-\x1f]"
"""A path that leads elsewhere: upwards, from the root, to another scheme or drive."""

_PLAIN = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9 _+()-]{{0,{LONGEST - 2}}}[A-Za-z0-9_+()-])?")
_DIGEST_CHARS = 16
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", "images", "masks", "labels", "annotations"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in range(10)]
)
"""Device names of Windows, and folders that layouts use themselves."""
_PARTS = frozenset(
    "train training val valid validation dev test testing eval evaluation".split()  # noqa: SIM905
)
"""Readers take a folder with such a word for a part of the data set."""


def check_run_id(run_id: str) -> None:
    """Refuse a run id that is no safe folder name; ids of models and studies keep to the same.

    Raises:
        CatalogError: empty, too long, or with other characters than letters, digits, '._-'.
    """
    if not re.fullmatch(_ID, run_id):
        raise CatalogError(
            f"run id {run_id!r} is no safe folder name",
            remedy="Use up to 128 letters, digits, '.', '_' and '-', a letter or digit first",
        )


def check_files(paths: pa.Array | pa.ChunkedArray, runs: Any | None, where: str) -> None:
    """Refuse a list of files that leads out of its table: the log of a catalog may say anything.

    Args:
        paths: of the files, below the table.
        runs: their run ids, where there are any.
        where: the table, for the error.

    Raises:
        CatalogError: naming the first path or run id.
    """
    odd = pc.fill_null(pc.match_substring_regex(paths, _OUTSIDE), True)
    if pc.any(odd).as_py():
        raise CatalogError(
            f"{where} lists the file {_first(paths, odd)!r}, which does not lie in it",
            remedy=_FOREIGN,
        )
    if runs is None:
        return
    odd = pc.invert(pc.fill_null(pc.match_substring_regex(runs, f"^{_ID}$"), False))
    if pc.any(odd).as_py():
        raise CatalogError(
            f"{where} holds the run id {_first(runs, odd)!r}, which is no safe folder name",
            remedy=_FOREIGN,
        )


def check_rows(rows: pa.Table, where: str) -> pa.Table:
    """Return rows of samples (some columns) if they hold what `SAMPLES` promises of them.

    With the column `__filename` the error says which file holds the first that does not.

    Raises:
        CatalogError: null where there must be a value, a text that is none, or labels that are no
            weight per class.
    """
    try:
        rows.validate(full=True)
    except pa.ArrowException as error:
        raise CatalogError(f"{where} holds broken values ({error})", remedy=_FOREIGN) from error
    for name in rows.column_names:
        column = rows[name]
        if name in SAMPLES.names and not SAMPLES.field(name).nullable and column.null_count:
            raise _no_row(rows, pc.is_null(column), f"null in column {name!r}", where)
        if pa.types.is_list(column.type) and pc.list_flatten(column).null_count:
            raise _no_row(rows, None, f"null within column {name!r}", where)
        if name in ("image", "mask"):
            empty = pc.and_(pc.is_valid(column), pc.is_null(pc.struct_field(column, "bytes")))
            if pc.any(empty).as_py():
                raise _no_row(rows, empty, f"an {name} without bytes", where)
    if {"soft_label", "class_names"} <= set(rows.column_names):
        lengths = [pc.list_value_length(rows[name]) for name in ("soft_label", "class_names")]
        odd = pc.not_equal(*lengths)
        if pc.any(odd).as_py():
            raise _no_row(rows, odd, "labels that are no weight per class", where)
    return rows


def _no_row(rows: pa.Table, odd: Any | None, what: str, where: str) -> CatalogError:
    named = "__filename" in rows.column_names
    file = "" if odd is None or not named else f" in {_first(rows['__filename'], odd)}"
    return CatalogError(f"{where} holds {what}{file}", remedy=_FOREIGN)


def json_object(text: str | None, where: str) -> dict[str, Any]:
    """Return the JSON object in a column; `where` names row and column.

    Raises:
        CatalogError: something else stands there.
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CatalogError(f"{where} is no JSON object", remedy=_FOREIGN)
    return found


def json_counts(text: str | None, where: str) -> dict[str, int]:
    """Return the JSON object of whole numbers in a column, see `json_object`.

    Raises:
        CatalogError: something else stands there.
    """
    found = json_object(text, where)
    if not all(type(value) is int for value in found.values()):
        raise CatalogError(f"{where} holds other things than numbers", remedy=_FOREIGN)
    return found


_FOREIGN = (
    "No factory wrote this, or it was damaged since: restore it, or choose other rows (--where) or"
    " another catalog"
)


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """Return a file name without suffix for each text: an id, or the name of a class.

    A text that is plain keeps its looks. Every other one gets a cleaned beginning and a digest of
    its own, so that two texts never share a name, also where upper and lower case are the same.
    Names hold no dot, slash, control or leading special character, and no word that readers take
    for train, val or test. A text's name depends on itself and on whether another one differs from
    it in case alone.
    """
    unique = sorted(set(texts))
    folded = Counter(text.casefold() for text in unique)
    return {
        text: text if folded[text.casefold()] == 1 and _is_plain(text) else _named(text)
        for text in unique
    }


def file_name(text: str) -> str:
    """Return the file name without suffix for one text, see `file_names`."""
    return file_names([text])[text]


def _is_plain(text: str) -> bool:
    return bool(_PLAIN.fullmatch(text)) and not _is_taken(text)


def _is_taken(text: str) -> bool:
    lower = text.lower()
    return lower in _RESERVED or not _PARTS.isdisjoint(re.split(r"[^a-z]+", lower))


def _named(text: str) -> str:
    """Return a name that no plain text has ('~' is not plain) and that tells texts apart."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", text[:LONGEST]).strip("_-")[:24]
    digest = digest_bytes(text.encode("utf-8", "surrogatepass"))[:_DIGEST_CHARS]
    return f"{'x' if not readable or _is_taken(readable) else readable}~{digest}"


def _first(values: Any, where: Any) -> str:
    return str(pc.filter(values, where)[0].as_py())[:200]


def decoded_png(png: bytes, *, named: str) -> Image.Image:
    """Return an image or a mask of a row, decoded; `named` is what the error calls it.

    Raises:
        CatalogError: it is no readable PNG, or claims more pixels than any image has.
    """
    try:
        return opened(png)
    except OSError as error:
        raise CatalogError(
            f"{named} is no readable PNG ({error})",
            remedy="Draw it again with `factory regenerate`, or leave it out with --where",
        ) from error
