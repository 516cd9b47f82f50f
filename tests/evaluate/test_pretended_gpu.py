"""Every learner trains and predicts on a pretended GPU, and never waits for it within a step."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from factory.device import DEVICE, LOOK_STEPS, device_of
from factory.errors import ModelError
from factory.evaluate import backbones, learner
from factory.evaluate.backbones import features_of, open_backbone
from factory.evaluate.classifier import RealPart, predict, train_classifier
from factory.evaluate.config import (
    STAINING,
    Augmentation,
    Classifier,
    ClipLora,
    Fitting,
    MaskProbe,
    Mixing,
    PooledLoss,
    Probe,
)
from factory.evaluate.learner import fit
from factory.evaluate.mask_probe import encoder_of, equations_of, maps_of, masks_of
from factory.evaluate.segment import segment, train_segmenter_on
from factory.models.config import ExpertSpec
from factory.models.experts import Expert, build_expert
from factory.models.shards import read_tensors
from tests.evaluate import test_classifier, test_segment
from tests.evaluate.test_clip import folder as clip_folder  # noqa: F401 -- a fixture
from tests.fakes.pretended_gpu import PretendedGpu, pretended_gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """A process that holds a GPU."""
    monkeypatch.setenv(DEVICE, "cuda")
    with pretended_gpu() as found:
        yield found


def waits_more(gpu: PretendedGpu, train: Callable[[int], object]) -> Counter[str]:
    """Train for few steps and for more; return what waited more often then."""
    waits = []
    for steps in (2, 8):
        before = gpu.waits.copy()
        train(steps)
        waits.append(gpu.waits - before)
    return waits[1] - waits[0]


def on_the_cpu(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Return it where a process without a GPU would have it."""
    monkeypatch.setenv(DEVICE, "cpu")
    return network.to("cpu")


ALWAYS = Mixing(probability=1.0, kind="mixup")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"mixing": ALWAYS, "pooled": PooledLoss(batch_shares=True), "augmentation": STAINING},
        {"mixing": ALWAYS.model_copy(update={"kind": "cutmix"}), "head_only": True},
    ],
    ids=["plain", "mixup pooled stained", "cutmix head"],
)
def test_a_classifier_is_trained_and_predicts_there(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    rows, val = test_classifier.rows(), test_classifier.VAL

    def train(steps: int) -> nn.Module:
        update = {"steps": steps, "validate_every": steps, **changed}
        settings = test_classifier.QUICK.model_copy(update=update)
        return train_classifier(settings, test_classifier.NAMES, rows, val, seed=3)[0]

    assert not waits_more(gpu, train)
    network = train(2)
    assert device_of(network).type == "cuda"
    said = predict(network, val.images)
    assert np.array_equal(said, predict(on_the_cpu(network, monkeypatch), val.images))


def test_clip_is_trained_there(gpu: PretendedGpu, clip_folder: Path) -> None:  # noqa: F811
    images, labels = test_classifier.squares(16)
    val = RealPart(images=images, labels=labels)

    def train(steps: int) -> nn.Module:
        settings = Classifier(
            clip=ClipLora(folder=str(clip_folder)), steps=steps, validate_every=steps, batch_size=4
        )
        return train_classifier(
            settings, test_classifier.NAMES, test_classifier.rows(), val, seed=0
        )[0]

    assert not waits_more(gpu, train)
    assert device_of(train(2)).type == "cuda"


def test_a_segmenter_is_trained_and_predicts_there(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = test_segment.discs(6, 1)

    def train(steps: int) -> nn.Module:
        settings = test_segment.QUICK.model_copy(
            update={"steps": steps, "validate_every": steps, "pooled": PooledLoss()}
        )
        return train_segmenter_on(
            settings, test_segment.pairs(), (images, masks), num_classes=2, seed=0
        )[0]

    assert not waits_more(gpu, train)
    network = train(2)
    assert device_of(network).type == "cuda"
    found = segment(network, images)
    assert np.array_equal(found, segment(on_the_cpu(network, monkeypatch), images))


def test_a_probes_backbone_looks_there_and_waits_once_a_write(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(backbones.KEPT, str(tmp_path))
    network = build_expert(
        ExpertSpec(backbone="test_resnet", class_names=("one", "other"), size_px=32), seed=0
    ).freeze()
    seen: list[str] = []
    features = Expert.features

    def watched(expert: Expert, images: torch.Tensor) -> torch.Tensor:
        seen.append(images.device.type)
        return features(expert, images)

    monkeypatch.setattr(Expert, "features", watched)
    monkeypatch.setattr(backbones, "build_expert", lambda *_, **__: network)
    weights = tmp_path / "test_resnet.safetensors"
    weights.write_bytes(b"names them")
    probe = Probe(backbone="test_resnet", weights=weights, input_px=32, size_px=16)
    images, _ = test_classifier.squares(12)
    views = [["turn0", "turn1", "varied0-x"]] * len(images)
    looking = open_backbone(probe)
    before = gpu.waits.total()
    there = features_of(looking, images, views, Augmentation())
    assert gpu.waits.total() == before + 1
    assert set(seen) == {"cuda"}
    on_the_cpu(network, monkeypatch)
    monkeypatch.setenv(backbones.KEPT, str(tmp_path / "here"))
    here = features_of(open_backbone(probe), images, views, Augmentation())
    assert np.allclose(there, here, atol=1e-3)
    assert seen[-1] == "cpu"


def test_a_mask_probe_looks_and_predicts_there(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    state = timm.create_model("test_resnet", features_only=True).state_dict()
    weights = tmp_path / "test_resnet.safetensors"
    save_file(state, weights)
    assert read_tensors(weights, of="it").keys() == state.keys()
    probe = MaskProbe(backbone="test_resnet", weights=weights, input_px=32, size_px=32)
    images, masks = test_segment.discs(4, 1)
    found = []
    for place in ("cuda", "cpu"):
        monkeypatch.setenv(DEVICE, place)
        maps = encoder_of(probe)
        assert maps(torch.zeros(1, 3, 32, 32)).device.type == place
        views = equations_of(maps, images, masks, classes=2, turns=2)
        kept = maps_of(maps, images)
        decoder = np.asarray(np.linspace(-1, 1, kept.shape[1] * 2).reshape(-1, 2))
        found.append((views, kept, masks_of(decoder, kept, size_px=32, shift=0.1)))
    for there, here in zip(*(views for views, _, _ in found), strict=True):
        for one, other in zip(there, here, strict=True):
            assert np.array_equal(one.square, other.square)
            assert np.array_equal(one.aim, other.aim)
    assert np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][2], found[1][2])


@pytest.mark.parametrize(("device", "told"), [("cuda", LOOK_STEPS), ("cpu", 7)])
def test_a_loss_that_is_no_number_is_told_with_its_step(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, device: str, told: int
) -> None:
    """On a GPU it is looked at later, and the step at which it began is told all the same."""
    network, steps = nn.Linear(1, 1).to(device), []

    def loss_of(module: nn.Module, step: int) -> torch.Tensor:
        steps.append(step)
        loss = module(torch.ones(1, 1, device=device)).sum()
        return loss * (float("nan") if step >= 6 else 1.0)

    settings = Fitting(steps=200, validate_every=200, warmup_steps=0)
    with pytest.raises(ModelError, match="the loss is nan at step 7"):
        fit(network, loss_of, lambda _: (0.0,), settings)
    assert len(steps) == told
    assert learner.LOOK_STEPS == LOOK_STEPS
