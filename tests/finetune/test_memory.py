"""What a training holds, by arithmetic: against the closed formula and against a real step."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from factory.finetune.memory import GIB, activation_bytes, memory, needs_of
from factory.finetune.run import needs_of_plan, prepare
from factory.methods.text.adapt import TextConditioned, text_sketch
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.fakes.stable_diffusion import TEXT_ENCODERS, UNETS, on_meta
from tests.finetune.test_run import config

UNET, TEXT = 859_520_964, 123_060_480
"""Parameters of Stable Diffusion 1.5, as in tests/models/test_lora.py."""


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("sd")
    vae = {"block_out_channels": [128, 256, 512, 512]}
    for part, stored in (
        ("unet", UNETS["sd-1.5"]),
        ("text_encoder", TEXT_ENCODERS["sd-1.5"]),
        ("vae", vae),
    ):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(stored))
    return Generator(name="sd", folder=folder, model_id="sd", manifest={"size_px": 512})


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_fsdp_divides_what_stable_diffusion_holds(workers: int) -> None:
    network = TextConditioned(*on_meta("sd-1.5"))
    held = memory(network, workers=workers, sharding="fsdp", activations=0)
    assert held.weights == pytest.approx(4 * (UNET + TEXT) / workers, rel=1e-6)
    assert held.gradients == held.average == held.moments // 2
    assert held.gradients == pytest.approx(held.weights, rel=1e-6)
    assert held.saving == pytest.approx(4 * held.weights, rel=1e-6)
    assert 0.5 * GIB < held.gathered < 0.8 * GIB
    assert held.total < {1: 20, 2: 10, 8: 3.1}[workers] * GIB


@pytest.mark.slow
def test_checkpointing_leaves_a_third_of_the_activations(stable_diffusion: Generator) -> None:
    sizes = []
    for checkpointing in (False, True):
        training = {"batch_size": 1, "gradient_checkpointing": checkpointing}
        asked = config(stable_diffusion, lora={"rank": 16}, training=training)
        sketch = text_sketch(asked, stable_diffusion, None)
        (held,) = needs_of(asked, sketch, workers=1, shardings=["none"])
        sizes.append(held.activations)
    assert 1.2 * GIB < sizes[0] < 2 * GIB  # one image of 512 px
    assert sizes[1] < 0.4 * sizes[0]
    learnt = held.gradients / 4
    assert 3e6 < learnt < 6e6
    assert held.weights == pytest.approx(4 * (UNET + TEXT + learnt), rel=1e-6)


def test_activations_of_a_network_that_can_be_counted_by_hand() -> None:
    """Two linear layers on (8, 1000) keep x and the output of ReLU; the rest comes and goes."""
    with FakeTensorMode():
        network = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 1000))
        images = torch.zeros(8, 1000)
        row = images.numel() * 4
        found = activation_bytes(lambda: network(images).sum().backward(), network)
    gradient = 1000 * 1000 * 4
    # A weight's gradient counts until it reaches its parameter; then it is a term of its own.
    assert gradient + 2 * row <= found <= gradient + 5 * row
    held = memory(network, workers=1, sharding="none", activations=found)
    assert held.weights == held.gradients == held.average == 4 * 2 * 1001 * 1000
    assert str(held).startswith("0.0")


def test_all_terms_are_told_before_a_training(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    cluster = {"sharding": "fsdp", "workers": 2}
    asked = config(base, train="full", cluster=cluster, training={"ema_decay": 0.99})
    told = needs_of_plan(prepare(asked, dataset, split, tmp_path))
    for term in ("needs about 0.", "weights", "gradients", "AdamW", "average", "activations"):
        assert term in told
    assert "on each of 2 workers" in told
