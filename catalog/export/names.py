"""File names for ids and class names: safe on every file system, one per text, told in a manifest.

A text that is plain keeps its looks. Every other one gets a cleaned beginning and a digest of its
own, so that two texts never share a name, also where upper and lower case are the same.
"""

import re
from collections import Counter
from collections.abc import Iterable

from factory.digest import digest_bytes

LONGEST = 64
"""Characters of a plain name: with suffix and folders it fits every file system."""

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


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """Return a file name without suffix for each text.

    Names are unique without regard to case, hold no dot, slash, control or leading special
    character, and no word that readers take for train, val or test. A text's name depends on
    itself and on whether another one differs from it in case alone.
    """
    unique = sorted(set(texts))
    folded = Counter(text.casefold() for text in unique)
    return {
        text: text if folded[text.casefold()] == 1 and _is_plain(text) else _named(text)
        for text in unique
    }


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
