"""Where every writer gets its samples: PNG bytes, class, id and seed of image number n.

Needs the standard library alone: a writer runs in its peer's environment, not in ours.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
BATCH = 256
"""Images that are handed over together, where a writer takes several at once."""


@dataclass(frozen=True)
class Source:
    """Samples by number. Each one that is handed over adds a byte to the file `progress`."""

    pngs: str
    """Folder of some hundred PNGs."""
    progress: str
    images: int

    def columns(self, first: int, last: int) -> dict[str, list]:
        """Return the samples `first` to `last` - 1, column by column."""
        numbers = range(first, min(last, self.images))
        return self.columns_of(numbers)

    def columns_of(self, numbers) -> dict[str, list]:
        """Return the samples with these numbers, column by column."""
        known = _pngs(self.pngs)
        digests = [hashlib.blake2b(b"%d" % n, digest_size=16).digest() for n in numbers]
        os.write(_opened(self.progress), b"." * len(digests))
        return {
            "image_id": [digest.hex() for digest in digests],
            "image": [known[n % len(known)] for n in numbers],
            "class_name": [CLASSES[n % len(CLASSES)] for n in numbers],
            "seed": [int.from_bytes(digest[:8], "big") >> 1 for digest in digests],
        }

    def samples(self):
        """Yield every sample as a row."""
        for number in range(self.images):
            yield {name: values[0] for name, values in self.columns_of([number]).items()}


@lru_cache
def _pngs(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.png"))]


@lru_cache
def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def main(
    write: Callable[[Source, Path, str], Callable[[], object]],
    ids: Callable[[Path, str], list[str]],
    forms: tuple[str, ...],
) -> None:
    """Write, or read back what lies there, and print what happened as a line of JSON.

    Args:
        write: gets ready (imports, Ray), and returns what is timed.
        ids: of all images that a reader of the format sees.
        forms: ways of writing; the first one is used when none is asked for.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", default=forms[0], choices=forms)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--pngs", default="")
    parser.add_argument("--progress", default="")
    parser.add_argument("--read", action="store_true")
    asked = parser.parse_args()
    if asked.read:
        told = _read(lambda: ids(asked.folder, asked.form))
    else:
        source = Source(pngs=asked.pngs, progress=asked.progress, images=asked.images)
        work = write(source, asked.folder, asked.form)
        begun = time.perf_counter()
        work()
        told = {"seconds": time.perf_counter() - begun}
    print(json.dumps(told), flush=True)


def _read(ids: Callable[[], list[str]]) -> dict[str, object]:
    try:
        found = ids()
    except Exception as error:
        return {"rows": 0, "distinct": 0, "error": f"{type(error).__name__}: {error}"[:200]}
    return {"rows": len(found), "distinct": len(set(found)), "error": None}
