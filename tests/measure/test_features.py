"""Features: one known network, from a local file, the same whatever the batches."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from factory.errors import ModelError
from factory.measure.features import (
    FeatureSpace,
    load_feature_space,
    network_input,
    one_ahead,
    turned,
)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return {name: value.half() for name, value in network.state_dict().items()}


def images(count: int, size_px: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size_px, size_px, 3), np.uint8)


def test_features_do_not_depend_on_the_batch_size(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    space = load_feature_space(tmp_path / "weights.safetensors", device="cpu")
    found = [space.extract(images(3), batch_size=size) for size in (3, 2)]
    assert found[0].shape == (3, 1280)
    assert found[0].dtype == np.float32
    assert np.isfinite(found[0]).all()
    assert np.allclose(found[0], found[1], atol=1e-4)


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights of timm.*absent\.safetensors"):
        load_feature_space(tmp_path / "absent.safetensors")


def test_a_truncated_file_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "whole.safetensors")
    path = tmp_path / "part.safetensors"
    path.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"part\.safetensors is no safetensors file"):
        load_feature_space(path)


def test_a_pickle_is_not_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"weights\.pth is no safetensors file.*save_file"):
        load_feature_space(tmp_path / "weights.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"stem": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"holds no efficientnet_lite0.*conv_stem"):
        load_feature_space(tmp_path / "other.safetensors")


def test_input_is_what_the_network_was_trained_on() -> None:
    plain = torch.full((1, 10, 10, 3), 255, dtype=torch.uint8)
    assert network_input(plain).shape == (1, 3, 224, 224)
    assert torch.allclose(network_input(plain), torch.ones(1), atol=1e-5)
    assert torch.allclose(network_input(plain * 0), -torch.ones(1), atol=1e-5)


def test_batches_do_not_change_features(tiny_space: FeatureSpace) -> None:
    pictures = images(7)
    whole = tiny_space.extract(pictures, batch_size=7)
    assert np.allclose(tiny_space.extract(pictures, batch_size=3), whole, atol=1e-6)


def test_the_eight_turns_are_different_and_hold_the_same_pixels() -> None:
    pictures = images(2, 6)
    found = [turned(pictures, number) for number in range(8)]
    assert len({view.tobytes() for view in found}) == 8
    assert np.array_equal(found[0], pictures)
    for view in found:
        assert np.array_equal(np.sort(view.ravel()), np.sort(pictures.ravel()))


def test_the_published_weights_load_and_tell_cells_apart(
    shared: Path, feature_weights: Path
) -> None:
    from factory.real.sources import open_dataset

    space = load_feature_space(feature_weights)
    part = sorted((shared / "data" / "wbc_pbc_full").glob("*.parquet"))[-1]
    dataset = open_dataset(part, label="class")
    chosen = {label: [] for label in ("platelet", "neutrophil")}
    for image_id, label in zip(dataset.ids, dataset.labels, strict=True):
        if label in chosen and len(chosen[label]) < 6:
            chosen[label].append(image_id)
    first, second = (space.extract(dataset.array(64, ids)) for ids in chosen.values())
    within = np.linalg.norm(first[:3] - first[3:], axis=1).mean()
    across = np.linalg.norm(first - second, axis=1).mean()
    assert across > 1.2 * within


def test_one_ahead_keeps_the_order_makes_one_at_most_and_passes_errors_on() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return 10 // (3 - number)

    found = one_ahead(range(5), make)
    for number, value in enumerate((3, 5, 10)):
        assert next(found) == value
        assert len(made) <= number + 2
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert list(one_ahead([], make)) == []


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import squeezenet1_0

    generator = torch.Generator().manual_seed(0)
    state = squeezenet1_0().state_dict()
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file({n: torch.randn(v.shape, generator=generator) * 0.05 for n, v in state.items()}, path)
    return path


def test_the_names_of_the_weights_tell_the_network(squeezenet: Path) -> None:
    space = load_feature_space(squeezenet, device="cpu")
    found = space.extract(images(3, 16))
    assert found.shape == (3, 512)
    assert np.allclose(found[1:2], space.extract(images(3, 16)[1:2]), atol=1e-4)
    assert found.std() > 0
    assert space.name == "squeezenet1_0"
    assert len(space.digest) == 32


@pytest.mark.slow
def test_inception_features_are_torch_fidelitys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images of 299 px, which nobody resizes."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({}, tmp_path / "none.pth")
    with monkeypatch.context() as patched:  # it cannot be built without weights
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        known = FeatureExtractorInceptionV3(
            "known", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth")
        )
    save_file(known.state_dict(), tmp_path / "weights.safetensors")
    space = load_feature_space(tmp_path / "weights.safetensors", device="cpu")
    assert (space.name, space.input_px) == ("inception_v3", 299)
    shown = images(2, 299)
    (asked,) = known(torch.from_numpy(shown).permute(0, 3, 1, 2))
    assert asked.shape == (2, 2048)
    assert np.allclose(space.extract(shown), asked.numpy(), rtol=1e-3, atol=1e-5)
