"""What leaves for an assistant: text of a moderate size, in which nothing acts and no password is.

An assistant reads with a machine that takes text for instructions and has room for so much of it;
rows may come from anybody. So long values are cut, and say so, and so are long lists.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from catalog.output import plain
from factory.errors import CatalogError
from factory.terminal import escaped, without_passwords

MOST_CHARS = 40_000
"""Of an answer."""
CELL_CHARS = 400
"""Of a value in it."""
MOST_ITEMS = 100
"""Of a list or an object in it."""
DEEPEST = 12


def as_text(answer: object) -> str:
    """Return an answer as JSON, in which nothing acts.

    Raises:
        CatalogError: it is too long even when its values are cut.
    """
    text = _json(cut(answer))
    if len(text) > MOST_CHARS:
        raise CatalogError(
            f"the answer has {len(text):,} characters, at most {MOST_CHARS:,} are sent",
            remedy="Ask for a part of it with query_catalog",
        )
    return text


def fitting(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return as many of the first rows, their values cut, as an answer holds.

    Raises:
        CatalogError: not even the first one fits.
    """
    kept: list[Any] = []
    left = MOST_CHARS - 2000  # what stands around them
    for row in rows:
        short = {key: _cell(plain(value)) for key, value in row.items()}
        left -= len(_json(short)) + 2
        if left < 0:
            break
        kept.append(short)
    if rows and not kept:
        raise CatalogError(
            f"a row has more than {MOST_CHARS:,} characters in {len(rows[0])} columns",
            remedy="Name the columns that are wanted, or cut their texts: substring(prompt, 1, 80)",
        )
    return kept


def cut(value: object, depth: int = 0) -> Any:
    """Return data as JSON knows it, long texts, lists and objects cut; what was cut says so."""
    if not isinstance(value, Mapping | list | tuple):
        leaf = plain(value)
        return _short(leaf) if isinstance(leaf, str) else leaf
    if depth >= DEEPEST:
        return "... deeper than is shown"
    more = len(value) - MOST_ITEMS
    if isinstance(value, Mapping):
        first = [*value.items()][:MOST_ITEMS]
        shown = {_short(str(key)): cut(inner, depth + 1) for key, inner in first}
        return shown | ({"...": f"{more} more"} if more > 0 else {})
    items = [cut(inner, depth + 1) for inner in value[:MOST_ITEMS]]
    return [*items, *([f"... {more} more"] if more > 0 else [])]


def _cell(value: object) -> object:
    """Return a value of a row; what is nested and long becomes its beginning as text."""
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False)
        return value if len(text) <= CELL_CHARS else _short(text)
    return _short(value) if isinstance(value, str) else value


def _short(text: str) -> str:
    if len(text) <= CELL_CHARS + 40:  # what was cut is not cut again
        return text
    return f"{text[:CELL_CHARS]}... ({len(text):,} characters)"


def _json(value: object) -> str:
    return escaped(without_passwords(json.dumps(value, ensure_ascii=False, allow_nan=False)))
