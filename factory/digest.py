"""Digests of values and files: the names under which everything is found again."""

import hashlib
import json
import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

DIGEST_CHARS = 32
"""Hex characters kept of a SHA-256 (128 bits: a collision among 10^12 ids has p < 2e-15)."""

LARGE_BYTES = 2**26
"""Files from here on are hashed once in a process."""


def canonical_json(value: object) -> str:
    """Return one JSON text per value: sorted keys, no spaces, UTF-8, no NaN.

    Floats that are whole numbers are written as integers, so that `2` and `2.0` from a YAML file
    mean the same recipe.

    Raises:
        TypeError: a value that JSON does not know.
        ValueError: NaN or infinity.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(value: object) -> object:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def digest(value: object) -> str:
    """Return the SHA-256 of `canonical_json(value)`, cut to `DIGEST_CHARS` hex characters."""
    return digest_bytes(canonical_json(value).encode())


def digest_bytes(*chunks: bytes) -> str:
    """Return the SHA-256 of the chunks' concatenation, cut to `DIGEST_CHARS` hex characters."""
    sha = hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
    return sha.hexdigest()[:DIGEST_CHARS]


def sha256_hex(data: bytes) -> str:
    """Return the whole SHA-256 of `data` in hex: for bytes that strangers verify."""
    return hashlib.sha256(data).hexdigest()


def digest_files(root: Path, names: Iterable[str]) -> str:
    """Return a digest of the named files below `root`: names and contents, in sorted order."""
    return digest({name: _sha256_of(root / name) for name in names})


def digest_file(path: Path) -> str:
    """Return a digest of a file's content, whatever it is called."""
    return _sha256_of(path)[:DIGEST_CHARS]


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; of a large one once, as long as it is not written again."""
    told = path.stat()
    read = _read_once if told.st_size >= LARGE_BYTES else _read_once.__wrapped__
    return read(path, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read_once(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
