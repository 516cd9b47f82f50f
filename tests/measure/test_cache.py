"""Kept arrays: computed once, never half read."""

from pathlib import Path

import numpy as np

from factory.measure.cache import NOTHING_KEPT, ArrayCache


def test_an_array_is_computed_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::-1]

    for _ in range(2):
        found = ArrayCache(folder=tmp_path / "new").get(["a", 1], compute)
        assert np.array_equal(found, [[2, 1, 0], [5, 4, 3]])
        assert found.dtype == np.uint8
    assert len(calls) == 1
    ArrayCache(folder=tmp_path / "new").get(["a", 2], compute)
    assert len(calls) == 2


def test_a_broken_file_is_computed_anew(tmp_path: Path) -> None:
    cache = ArrayCache(folder=tmp_path)
    cache.get("key", lambda: np.zeros(3))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert cache.get("key", lambda: np.ones(3)).sum() == 3
    assert cache.get("key", lambda: np.zeros(3)).sum() == 3


def test_without_a_folder_nothing_is_kept() -> None:
    assert NOTHING_KEPT.get("key", lambda: np.zeros(3)).sum() == 0
    assert NOTHING_KEPT.get("key", lambda: np.ones(3)).sum() == 3
