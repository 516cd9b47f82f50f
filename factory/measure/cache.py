"""Arrays that are worth keeping: computed once, found again by what decided them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from factory.atomic import write_bytes
from factory.digest import digest

Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayCache:
    """A folder of arrays, one safetensors file each, or no folder at all (nothing is kept)."""

    folder: Path | None = None

    def get(self, key: object, compute: Callable[[], NDArray[Kind]]) -> NDArray[Kind]:
        """Return the array of `key`, from the folder if it is there.

        Args:
            key: everything that decides the array, as JSON-like values.
            compute: makes the array; called only when the folder lacks it.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{digest(key)}.safetensors"
        try:
            kept: NDArray[Kind] = load_file(path)["array"]
            return kept
        except (FileNotFoundError, SafetensorError, KeyError):  # absent, or not ours: make it anew
            array = np.ascontiguousarray(compute())
        write_bytes(path, save({"array": array}))
        return array


NOTHING_KEPT = ArrayCache()
