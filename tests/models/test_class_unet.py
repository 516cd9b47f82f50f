"""The class-conditional U-Net: its size, its conditions, and what it does without one."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from factory.errors import ConfigError
from factory.models.class_conditioning import CONDITIONINGS, keep_conditions, labels_of
from factory.models.class_unet import ClassUNet, UNetLayer
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.sample.guidance import guided, sides
from factory.sample.loop import denoise
from factory.sample.schedulers import make_scheduler
from tests.fakes.class_unet import CLASSES, WIDTH, tiny_class_unet

SCHEDULER = DDPMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([10, 400, 900])


def given(conditioning: str) -> Tensor:
    """A condition for each of three images, none like another."""
    if conditioning == "text":
        tokenizer = prompt_tokenizer(CLASSES)
        torch.manual_seed(5)  # noqa: TID251 -- initial weights have no generator argument
        encoder = small_text_encoder(tokenizer, width=WIDTH)
        tokens = tokenizer(list(CLASSES), padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            return encoder(tokens)[0]
    if conditioning == "concat":
        return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return labels_of(CLASSES, CLASSES)


def test_the_defaults_are_the_original_network() -> None:
    with torch.device("meta"):
        unet = ClassUNet(class_names=("no", "yes"))
    assert unet.num_parameters() == pytest.approx(65.1e6, abs=0.5e6)
    layers = [module for module in unet.modules() if isinstance(module, UNetLayer)]
    attended = [layer for layer in layers if layer.cross_attention and layer.self_attention]
    assert (len(layers), len(attended)) == (14, 13)  # all but the block that closes the middle


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("null", ["learned", "zero"])
def test_every_conditioning_learns_and_samples(conditioning: str, null: str) -> None:
    unet = tiny_class_unet(conditioning, null_condition=null).train()
    assert unet.num_parameters() < 1e6
    condition, present = given(conditioning), torch.tensor([True, True, False])
    noise = torch.randn(LATENTS.shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        noisy = SCHEDULER.add_noise(LATENTS, noise, TIMESTEPS)
        loss = F.mse_loss(unet(noisy, TIMESTEPS, condition, present).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in unet.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        both = torch.tensor(sides(2.0)).repeat_interleave(3)
        return unet(latents, timestep, torch.cat([condition, condition]), both).sample

    with torch.inference_mode():
        scheduler = make_scheduler("ddim", SCHEDULER.config, 3)
        drawn = denoise(guided(predict, 2.0), scheduler, noise)
    assert drawn.shape == LATENTS.shape
    assert drawn.isfinite().all()
    assert not torch.equal(drawn, noise)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_says_about_what_full_precision_says(
    conditioning: str, dtype: torch.dtype
) -> None:
    unet, condition = tiny_class_unet(conditioning), given(conditioning)
    present = torch.tensor([True, True, False])
    full = unet(LATENTS, TIMESTEPS, condition, present).sample
    if condition.is_floating_point() and conditioning != "concat":
        condition = condition.to(dtype)  # the encoder's type; planes of masks are float32
    half = unet.to(dtype)(LATENTS.to(dtype), TIMESTEPS, condition, present).sample
    assert half.dtype == dtype
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@torch.no_grad()
def test_only_a_present_condition_is_heard(conditioning: str) -> None:
    unet, condition = tiny_class_unet(conditioning), given(conditioning)
    same = LATENTS[:1].expand(3, -1, -1, -1)
    heard = unet(same, 500, condition).sample
    assert not torch.allclose(heard[0], heard[1], atol=1e-5)
    assert not torch.allclose(heard[0], heard[2], atol=1e-5)
    deaf = unet(same, 500, condition, torch.zeros(3, dtype=torch.bool)).sample
    assert torch.allclose(deaf[0], deaf[1], atol=1e-6)
    mixed = unet(same, 500, condition, torch.tensor([True, False, True])).sample
    assert torch.equal(mixed, torch.stack([heard[0], deaf[1], heard[2]]))


@torch.no_grad()
def test_a_learned_null_is_used_and_a_zero_one_is_zero() -> None:
    unet = tiny_class_unet(null_condition="learned")
    absent = torch.zeros(3, dtype=torch.bool)
    labels = given("context_class")
    assert torch.equal(unet.condition(labels, absent), torch.zeros(3, 1, WIDTH))
    unet.condition.null.fill_(0.5)
    assert torch.equal(unet.condition(labels, absent), torch.full((3, 1, WIDTH), 0.5))
    zero = tiny_class_unet(null_condition="zero")
    assert torch.equal(zero.condition(labels, absent), torch.zeros(3, 1, WIDTH))
    assert unet.num_parameters() - zero.num_parameters() == WIDTH


@torch.no_grad()
def test_one_context_token_is_a_bias_and_several_are_not() -> None:
    layer = tiny_class_unet().mid_layers[0]
    hidden = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    tokens = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(4))
    one = layer.cross_attention(hidden, tokens[:, :1]) - hidden
    assert torch.allclose(one, one[..., :1, :1].expand_as(one), atol=1e-6)
    two = layer.cross_attention(hidden, tokens) - hidden
    assert not torch.allclose(two, two[..., :1, :1].expand_as(two), atol=1e-4)


def test_checkpointed_gradients_are_the_same() -> None:
    unet, labels = tiny_class_unet().train(), given("context_class")

    def gradients() -> list[Tensor]:
        loss = unet(LATENTS, TIMESTEPS, labels).sample.square().mean()
        kept = [p for p in unet.parameters() if p is not unet.condition.null]
        return list(torch.autograd.grad(loss, kept))

    plain = gradients()
    calls: list[str] = []
    for layer in unet.mid_layers:
        layer.register_forward_pre_hook(lambda *_: calls.append("forward"))
    unet.enable_gradient_checkpointing()
    assert all(map(torch.equal, plain, gradients()))
    assert len(calls) == 2 * len(unet.mid_layers)  # once forward, once again for backward


@torch.no_grad()
def test_a_saved_network_comes_back(tmp_path: Path) -> None:
    unet = tiny_class_unet("context_class", seed=3)
    unet.condition.null.fill_(0.25)
    unet.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    loaded = ClassUNet.from_pretrained(tmp_path)
    assert tuple(loaded.config.class_names) == CLASSES
    inputs = (LATENTS, TIMESTEPS, given("context_class"), torch.tensor([True, False, True]))
    assert torch.equal(loaded(*inputs).sample, unet(*inputs).sample)


@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.5])
def test_conditions_are_dropped_as_often_as_asked(dropout: float) -> None:
    generator = torch.Generator().manual_seed(7)
    kept = torch.cat(
        [keep_conditions(25, dropout=dropout, generator=generator) for _ in range(400)]
    )
    assert kept.shape == (10_000,)
    assert float((~kept).float().mean()) == pytest.approx(dropout, abs=0.01)
    again = keep_conditions(25, dropout=dropout, generator=torch.Generator().manual_seed(7))
    assert torch.equal(again, kept[:25])


def test_a_fifth_is_dropped_unless_asked_otherwise() -> None:
    kept = keep_conditions(10_000, generator=torch.Generator().manual_seed(8))
    assert float((~kept).float().mean()) == pytest.approx(0.2, abs=0.01)


def test_class_names_become_their_places() -> None:
    assert labels_of(["good", "poor", "good"], CLASSES).tolist() == [2, 0, 2]
    with pytest.raises(ConfigError, match=r"unknown class 'blurred'.*poor, fair, good"):
        labels_of(["good", "blurred"], CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": "image"}, "unknown conditioning 'image'"),
        ({"null_condition": "mean"}, "unknown null_condition 'mean'"),
        ({"class_names": ()}, "has no classes"),
        ({"conditioning": "concat", "condition_channels": 0}, "has no channels"),
        ({"mid_channels": (16, 8)}, r"mid_channels \[16, 8\] do not lead"),
        ({"down_sample": (True,)}, "must have 2 entries"),
        ({"down_channels": (6, 16, 16)}, "6 channels cannot be divided by norm_num_groups 4"),
        ({"num_attention_heads": 3}, "8 channels cannot be divided by num_attention_heads 3"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_named(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_class_unet(**changes)


def test_latents_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"6x8 cannot be halved.*multiples of 4"):
        tiny_class_unet()(LATENTS[:, :, :6], TIMESTEPS, given("context_class"))
