"""Features of many real images take minutes: they are told of, and kept piece by piece."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from factory.measure import real_features
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace
from factory.measure.real_features import real_part
from factory.real.dataset import RealDataset
from factory.terminal import Pace


def test_how_far_features_are_is_told_and_what_was_computed_is_kept(
    cells: RealDataset, tiny_space: FeatureSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_features, "PIECE", 8)
    monkeypatch.setattr(real_features, "Pace", partial(Pace, seconds=0))
    ids, told = cells.ids[:20], list[str]()

    def part() -> np.ndarray:
        kept = ArrayCache(folder=tmp_path)
        found = real_part(
            cells, ids, size_px=16, space=tiny_space, num_turns=2, cache=kept, tell=told.append
        )
        return found.turns

    first = part()
    assert first.shape == (2, 20, 64)
    assert [line.split(",")[0] for line in told] == [
        f"{done} of 40 views of real images by tiny" for done in (8, 16, 20, 28, 36)
    ]
    monkeypatch.setattr(FeatureSpace, "extract", None)
    assert np.array_equal(part(), first)
