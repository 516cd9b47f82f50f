"""Generation accuracy: what is counted, and whom is asked."""

import numpy as np
import pytest
import torch

from factory.errors import DataError
from factory.evaluate.generation_accuracy import expert_names, generation_accuracy
from factory.finetune.latents import to_signed
from factory.measure.intervals import proportion
from factory.models.config import ExpertSpec
from factory.models.experts import build_expert


def test_shares_confusions_and_intervals() -> None:
    wanted = ["a"] * 4 + ["b"] * 2
    found = generation_accuracy(["a", "a", "b", "c", "b", "a"], wanted)
    assert found.overall == proportion(3, 6)
    assert found.by_class == {"a": proportion(2, 4), "b": proportion(1, 2)}
    assert found.called == {"a": {"a": 2, "b": 1, "c": 1}, "b": {"b": 1, "a": 1}}


@pytest.mark.parametrize("found", [[], ["a"]])
def test_a_class_is_needed_for_every_image(found: list[str]) -> None:
    with pytest.raises(DataError, match="classes were seen in 2 images"):
        generation_accuracy(found, ["a", "b"])


@pytest.mark.parametrize("grey", [False, True])
def test_the_expert_names_what_it_sees(grey: bool) -> None:
    spec = ExpertSpec(backbone="test_resnet", class_names=("x", "y", "z"), size_px=16, grey=grey)
    expert = build_expert(spec, seed=3).freeze()
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
    with torch.no_grad():
        numbers = expert(to_signed(torch.from_numpy(images))).argmax(1).tolist()
    assert expert_names(expert, images) == ["xyz"[number] for number in numbers]
