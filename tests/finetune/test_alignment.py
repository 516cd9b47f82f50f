"""Alignment: its value, its gradient, what the expert sees, and that w = 0 is nothing."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from factory.errors import ConfigError
from factory.finetune.alignment import (
    Alignment,
    aligned_losses,
    build_alignment,
    cosine_loss,
)
from factory.finetune.config import AlignmentSettings
from factory.finetune.losses import Noised, add_noise, denoising_loss, predicted_clean
from factory.finetune.order import Part
from factory.models.config import ExpertSpec, LoraSettings
from factory.models.experts import Expert, build_expert, state_digest
from factory.models.layers import default_layer
from factory.models.lora import attach_lora, trainable_parameters
from factory.models.unets import small_unet
from tests.fakes.stable_diffusion import on_meta

PIXELS, LATENTS = 3, 4
CLEAN = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
CONTEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))


def unet(channels: int = PIXELS) -> UNet2DConditionModel:
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    return small_unet(
        sample_size_latent=16, channels=(32, 64), in_channels=channels, cross_attention_dim=16
    )


@pytest.fixture
def expert() -> Expert:
    spec = ExpertSpec(backbone="test_resnet", class_names=("a", "b"), size_px=32)
    return build_expert(spec, seed=0)


def schedule(prediction_type: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(prediction_type=prediction_type)


def noised(channels: int, scheduler: DDPMScheduler, *, step: int = 0) -> Noised:
    return add_noise(scheduler, CLEAN[:, :channels], Part(step=step), batch_size=2, seed=0)


def predict(model: nn.Module, mixed: Noised) -> Tensor:
    prediction: Tensor = model(mixed.noisy, mixed.timesteps, CONTEXT).sample
    return prediction


def losses_of(
    model: nn.Module, alignment: Alignment | None, scheduler: DDPMScheduler, *, step: int = 0
) -> dict[str, Tensor]:
    mixed = noised(model.config.in_channels, scheduler, step=step)
    return aligned_losses(
        alignment,
        model,
        mixed,
        predict=lambda: predict(model, mixed),
        loss_of=lambda said: denoising_loss(scheduler, mixed, said, snr_gamma=None),
    )


def train(expert: Expert | None, settings: AlignmentSettings | None, *, steps: int = 3) -> tuple:
    """Train a U-Net; settings None is a trainer that knows no alignment. Return it and the term."""
    model, scheduler = unet(), schedule()
    alignment = settings and build_alignment(settings, model, expert, scheduler, seed=0)
    extra = [alignment.projection] if alignment else []
    optimizer = torch.optim.AdamW(trainable_parameters(model, *extra), lr=1e-3)
    for step in range(steps):
        if settings is None:
            mixed = noised(PIXELS, scheduler, step=step)
            said = predict(model, mixed)
            losses = {"loss": denoising_loss(scheduler, mixed, said, snr_gamma=None)}
        else:
            losses = losses_of(model, alignment, scheduler, step=step)
        torch.autograd.backward(losses["loss"])
        optimizer.step()
        optimizer.zero_grad()
    return model, alignment


def number(value: Tensor) -> float:
    return float(value.detach())


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_aligned_features_cost_0_orthogonal_1_opposed_2() -> None:
    hidden = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert float(cosine_loss(7 * hidden, hidden)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(-hidden, hidden)) == pytest.approx(2)
    assert float(cosine_loss(hidden.flip(1) * torch.tensor([1.0, -1.0]), hidden)) == pytest.approx(
        1
    )
    assert float(cosine_loss(torch.stack([hidden[0], -hidden[1]]), hidden)) == pytest.approx(1)


@pytest.mark.parametrize(("sign", "value"), [(1, 0), (-1, 2)])
def test_the_term_itself_reaches_0_and_2(expert: Expert, sign: int, value: int) -> None:
    model, scheduler = unet(), schedule()
    alignment = build_alignment(AlignmentSettings(), model, expert, scheduler, seed=0)
    outputs = [hidden := torch.rand(2, 64, 8, 8, requires_grad=True)]
    mixed = noised(PIXELS, scheduler)
    features, wanted = expert.features(mixed.clean), sign * hidden.mean((2, 3)).detach()
    with torch.no_grad():  # the W that maps these two features to the wanted ones
        alignment.projection.weight.copy_((torch.linalg.pinv(features) @ wanted).T)
        alignment.projection.bias.zero_()
    assert number(alignment.loss(outputs, mixed, mixed.noise)) == pytest.approx(value, abs=1e-4)


def test_weight_0_is_the_plain_training_bit_for_bit(expert: Expert) -> None:
    plain, _ = train(None, None)
    state = torch.get_rng_state()
    off, alignment = train(expert, AlignmentSettings(weight=0))
    without_expert, _ = train(None, AlignmentSettings(weight=0))
    assert alignment is None
    assert torch.equal(torch.get_rng_state(), state)
    on, _ = train(expert, AlignmentSettings(weight=1))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, off.state_dict()[name]), name
        assert torch.equal(value, without_expert.state_dict()[name]), name
    assert any(not torch.equal(v, on.state_dict()[n]) for n, v in plain.state_dict().items())


def test_terms_are_separate_and_sum_up(expert: Expert) -> None:
    model, scheduler = unet(), schedule()
    settings = AlignmentSettings(weight=0.5)
    alignment = build_alignment(settings, model, expert, scheduler, seed=0)
    losses = losses_of(model, alignment, scheduler)
    assert list(losses) == ["loss", "denoising", "alignment"]
    assert torch.equal(losses["loss"], losses["denoising"] + 0.5 * losses["alignment"])
    assert torch.equal(losses["denoising"], losses_of(model, None, scheduler)["loss"])
    assert 0 < number(losses["alignment"]) < 2


@pytest.mark.parametrize("shown", ["noisy", "clean", "predicted"])
def test_gradient_reaches_what_is_before_the_layer_and_w_never_the_expert(
    expert: Expert, shown: str
) -> None:
    model, scheduler = unet(), schedule()
    expert.requires_grad_(True)
    settings = AlignmentSettings(expert_input=shown)
    alignment = build_alignment(settings, model, expert, scheduler, seed=0)
    torch.autograd.backward(losses_of(model, alignment, scheduler)["alignment"])
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"conv_in", "time_embedding", "down_blocks"}  # not through the prediction
    assert all(p.grad is not None and p.grad.any() for p in alignment.projection.parameters())
    assert all(p.grad is None for p in expert.parameters())


def test_training_leaves_the_expert_to_the_byte_and_moves_w(expert: Expert) -> None:
    before = state_digest(expert)
    fresh = build_alignment(AlignmentSettings(), unet(), expert, schedule(), seed=0)
    expert.train()
    _, alignment = train(expert, AlignmentSettings())
    assert state_digest(expert) == before
    assert not torch.equal(alignment.projection.weight, fresh.projection.weight)


@pytest.mark.slow
def test_training_aligns_the_layer(expert: Expert) -> None:
    settings = AlignmentSettings(weight=1)
    first, last = (
        losses_of(*train(expert, settings, steps=steps), schedule())["alignment"]
        for steps in (0, 25)
    )
    assert number(last) < 0.5 * number(first)


def test_no_hook_stays_behind(expert: Expert) -> None:
    model, alignment = train(expert, AlignmentSettings(expert_layer="layer4.0.conv1"))
    assert hooks(model) == hooks(alignment.expert) == 0

    def fail() -> Tensor:
        assert hooks(model) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aligned_losses(alignment, model, None, predict=fail, loss_of=torch.sum)
    assert hooks(model) == 0


def test_the_seed_decides_w(expert: Expert) -> None:
    def weights(seed: int) -> Tensor:
        return build_alignment(
            AlignmentSettings(), unet(), expert, schedule(), seed=seed
        ).projection.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def shown_to_expert(
    expert: Expert, channels: int, settings: AlignmentSettings, **options: Callable
) -> Tensor:
    """Return the images that the term hands to the expert, for a prediction of all zeros."""
    alignment = build_alignment(settings, unet(channels), expert, schedule(), seed=0, **options)
    images: list[Tensor] = []
    features = expert.features
    expert.features = lambda batch: images.append(batch) or features(batch)
    mixed = noised(channels, schedule())
    hidden = torch.rand(2, 64, 4, 4, requires_grad=True)
    alignment.loss([hidden], mixed, torch.zeros_like(mixed.noisy))
    return images[0]


def test_the_expert_sees_what_is_asked_for(expert: Expert) -> None:
    mixed = noised(PIXELS, schedule())
    guess = predicted_clean(schedule(), mixed, torch.zeros_like(mixed.noisy))
    for name, wanted in (
        ("noisy", mixed.noisy),
        ("clean", mixed.clean),
        ("predicted", guess.clamp(-1, 1)),
    ):
        shown = shown_to_expert(expert, PIXELS, AlignmentSettings(expert_input=name))
        assert torch.equal(shown, wanted), name
    assert AlignmentSettings().expert_input == "clean"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_gives_the_clean_image(kind: str) -> None:
    scheduler = schedule(kind)
    noise = torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([10, 800])
    perfect = {
        "epsilon": noise,
        "v_prediction": scheduler.get_velocity(CLEAN, noise, timesteps),
        "sample": CLEAN,
    }[kind]
    noisy = scheduler.add_noise(CLEAN, noise, timesteps)
    mixed = Noised(noisy=noisy, clean=CLEAN, timesteps=timesteps, noise=noise)
    assert torch.allclose(predicted_clean(scheduler, mixed, perfect), CLEAN, atol=1e-4)
    # diffusers' own arithmetic, for a prediction that is not perfect
    scheduler.register_to_config(clip_sample=False)
    guess = predicted_clean(scheduler, mixed, noise * 0.3)
    for row, timestep in enumerate(timesteps.tolist()):
        wanted = scheduler.step(noise[row] * 0.3, timestep, noisy[row]).pred_original_sample
        assert torch.allclose(guess[row], wanted, atol=1e-3)


def test_an_unknown_prediction_type_is_refused() -> None:
    mixed = noised(PIXELS, schedule())
    with pytest.raises(ConfigError, match="unknown prediction type 'score'"):
        predicted_clean(schedule("score"), mixed, mixed.noise)


@pytest.mark.parametrize("shown", ["noisy", "clean", "predicted"])
def test_latents_are_decoded_for_the_expert(expert: Expert, shown: str) -> None:
    settings = AlignmentSettings(expert_input=shown)
    with pytest.raises(ConfigError, match=r"1 or 3 channels, not 4\. Decode latents"):
        shown_to_expert(expert, LATENTS, settings)
    images = shown_to_expert(
        expert, LATENTS, settings, decode=lambda z: F.interpolate(z[:, 1:], 40)
    )
    assert images.shape == (2, 3, 40, 40)


def test_the_default_is_the_first_block_of_the_greatest_width() -> None:
    assert default_layer(unet()) == "down_blocks.1.resnets.0"
    assert default_layer(on_meta("sd-1.5")[0]) == "down_blocks.2.resnets.0"
    with pytest.raises(ConfigError, match="no residual block"):
        default_layer(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "layer",
    [
        "down_blocks.1.resnets.0.conv_shortcut",  # the original's
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",  # tokens
        "down_blocks.1.resnets.0.time_emb_proj",  # a vector
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_maps_tokens_and_vectors_can_be_aligned(expert: Expert, layer: str, pooling: str) -> None:
    settings = AlignmentSettings(layer=layer, pooling=pooling)
    model, alignment = train(expert, settings, steps=1)
    term = losses_of(model, alignment, schedule())["alignment"]
    assert 0 < number(term) < 2


def test_pooling_and_the_experts_layer_change_the_term(expert: Expert) -> None:
    model, found = unet(), []
    for settings in (
        AlignmentSettings(),
        AlignmentSettings(pooling="max"),
        AlignmentSettings(expert_layer="layer4.0.conv1"),
    ):
        alignment = build_alignment(settings, model, expert, schedule(), seed=0)
        found.append(number(losses_of(model, alignment, schedule())["alignment"]))
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("down_blocks.1.resnet.0", r"no layer .*such as down_blocks\.1\.resnets\.0"),
        ("down_blocks.1", "does not say how wide"),
        ("mid_block.attentions.0", "put out tuple in one pass"),
        ("class_free", "no layer 'class_free'"),
        (".", r"no layer '\.'"),
    ],
)
def test_a_layer_that_cannot_be_aligned_is_refused(expert: Expert, layer: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(expert, AlignmentSettings(layer=layer), steps=1)


def test_features_of_another_shape_are_refused(expert: Expert) -> None:
    model, scheduler = unet(), schedule()
    alignment = build_alignment(AlignmentSettings(), model, expert, scheduler, seed=0)
    mixed = noised(PIXELS, scheduler)
    last = torch.rand(2, 8, 8, 64, requires_grad=True)  # channels last
    with pytest.raises(
        ConfigError, match=r"gives features \(2, 8\), the expert's become \(2, 64\)"
    ):
        alignment.loss([last], mixed, mixed.noise)
    for outputs, said in (([], "nothing"), ([last, last], "Tensor, Tensor"), ([(last,)], "tuple")):
        with pytest.raises(ConfigError, match=f"put out {said} in one pass"):
            alignment.loss(outputs, mixed, mixed.noise)


def test_a_weight_without_expert_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight 0\.5 needs an expert"):
        build_alignment(AlignmentSettings(weight=0.5), unet(), None, schedule(), seed=0)


def test_with_lora_a_layer_before_all_of_it_is_refused(expert: Expert) -> None:
    model, text = unet(), nn.Identity()
    attach_lora(model, text, LoraSettings(rank=2, train_text_encoder=False), seed=0)
    before = AlignmentSettings(layer="down_blocks.0.resnets.0")
    behind = AlignmentSettings(layer="mid_block.resnets.1")
    alignment = build_alignment(before, model, expert, schedule(), seed=0)
    with pytest.raises(ConfigError, match="has no gradient: nothing before it is trained"):
        losses_of(model, alignment, schedule())
    with torch.no_grad():  # validating is allowed
        assert number(losses_of(model, alignment, schedule())["alignment"]) > 0
    alignment = build_alignment(behind, model, expert, schedule(), seed=0)
    torch.autograd.backward(losses_of(model, alignment, schedule())["alignment"])
    reached = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert reached
    assert all(".lora_B." in name for name in reached)  # A follows once B is not 0


def test_gradient_checkpointing_changes_nothing(expert: Expert) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, scheduler = unet().train(), schedule()
        if checkpointing:
            model.enable_gradient_checkpointing()
        alignment = build_alignment(AlignmentSettings(), model, expert, scheduler, seed=0)
        torch.autograd.backward(losses_of(model, alignment, scheduler)["loss"])
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name
