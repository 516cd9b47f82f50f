"""A small segmenter: it learns discs, and comes back from its folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from factory.errors import ModelError
from factory.evaluate.prepare_commands import segmenter
from factory.finetune.config import SegmenterConfig
from factory.finetune.segmenter import (
    mean_dice,
    segmentation_loss,
    train_segmenter,
)
from factory.models.config import SegmenterSpec
from factory.models.pair_codec import class_index_array
from factory.models.segmenter import Segmenter, load_segmenter, save_segmenter
from factory.models.segmenter_networks import build_segmenter
from tests.fakes.pairs import disc_pair, write_pairs

CONFIG = SegmenterConfig(size_px=16, channels=(8, 16), norm_num_groups=4, steps=60, batch_size=8)


def discs(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    pairs = [disc_pair(start + number, values=(0, 128, 255)) for number in range(count)]
    images, masks = map(np.stack, zip(*pairs, strict=True))
    return images, class_index_array(masks, (0, 128, 255), names=[str(i) for i in range(count)])


@pytest.fixture(scope="module")
def trained():
    images, masks = map(torch.from_numpy, discs(24))
    return train_segmenter(images, masks, CONFIG)


def test_it_finds_discs_that_it_never_saw(trained) -> None:
    assert mean_dice(trained, *discs(12, start=100)) > 0.8


def test_other_sizes_are_resized_and_back(trained) -> None:
    large = discs(2, start=50)[0].repeat(2, 1).repeat(2, 2)
    assert trained(large).shape == (2, 32, 32)


def test_its_folder_gives_it_back(trained, tmp_path: Path) -> None:
    save_segmenter(tmp_path / "s", trained.network, trained.facts)
    again = load_segmenter(tmp_path / "s", device="cpu")
    images = discs(4, start=70)[0]
    assert np.array_equal(again(images), trained(images))
    (tmp_path / "s" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_segmenter(tmp_path / "s")


def test_a_missing_one_is_named() -> None:
    with pytest.raises(ModelError, match=r"no segmenter at 'nowhere'.*factory segmenter"):
        load_segmenter("nowhere")


def test_the_command_trains_what_the_agreement_gate_asks(tmp_path: Path) -> None:
    data, split = write_pairs(tmp_path / "real", count=12)
    places = ["--data", data, "--split", split, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(segmenter, [*places, "--size-px", "16", "--steps", "2"])
    assert done.exit_code == 0, done.output
    assert "step 2/2: loss" in done.output, "how far it is"
    assert load_segmenter(tmp_path / "out", device="cpu").size_px == 16


def test_a_perfect_answer_costs_nothing() -> None:
    masks = torch.from_numpy(discs(2)[1]).long()
    sure = 50.0 * torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2)
    losses = segmentation_loss(sure, masks)
    assert float(losses["loss"]) == pytest.approx(0, abs=1e-5)
    assert float(segmentation_loss(-sure, masks)["dice"]) > 0.9


def test_an_encoder_starts_from_its_weights_and_comes_back_without_them(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    import timm

    given = timm.create_model("mobilenetv3_small_050").state_dict()
    save_file(
        {name: value.contiguous() for name, value in given.items()}, tmp_path / "w.safetensors"
    )
    spec = SegmenterSpec(
        decoder="unet", encoder="mobilenetv3_small_050", encoder_weights=tmp_path / "w.safetensors"
    )
    network = build_segmenter(spec, 3, seed=0).eval()
    held = network.state_dict()["network.encoder.model.conv_stem.weight"]
    assert torch.equal(held, given["conv_stem.weight"])
    facts = {**spec.model_dump(mode="json"), "num_classes": 3, "size_px": 32}
    save_segmenter(tmp_path / "s", network, facts)
    (tmp_path / "w.safetensors").unlink()
    again = load_segmenter(tmp_path / "s", device="cpu")
    images = np.random.Generator(np.random.Philox(0)).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert np.array_equal(
        again(images), Segmenter(network=network, size_px=32, facts=facts)(images)
    )


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    spec = SegmenterSpec(
        decoder="unet", encoder="mobilenetv3_small_050", encoder_weights=tmp_path / "w.safetensors"
    )
    with pytest.raises(ModelError, match="does not fit the encoder mobilenetv3_small_050"):
        build_segmenter(spec, 2, seed=0)
    (tmp_path / "w.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="no safetensors file of timm's mobilenetv3_small_050"):
        build_segmenter(spec, 2, seed=0)
