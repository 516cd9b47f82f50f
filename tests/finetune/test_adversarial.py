"""The adversarial term: hinge losses, a start, a weight, and gradients that stay apart."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from factory.finetune.autoencoder_losses import (
    AdversarialTerm,
    PatchDiscriminator,
    discriminator_loss,
    generator_loss,
    gradient_ratio,
)
from factory.finetune.config import AdversarialConfig

SMALL = AdversarialConfig(channels=(8, 16), start_step=0)


def images(seed: int, *, count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def term_of(config: AdversarialConfig) -> AdversarialTerm:
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    return AdversarialTerm(config)


def decoder() -> nn.Conv2d:
    """The last layer of an autoencoder, standing for all of it."""
    torch.manual_seed(1)  # noqa: TID251 -- initial weights have no generator argument
    return nn.Conv2d(3, 3, 3, padding=1)


def terms_of(term: AdversarialTerm, last: nn.Conv2d, *, step: int = 0) -> dict[str, Tensor]:
    real = images(2)
    decoded = last(real)
    loss = 10 * (decoded - real).abs().mean()
    return term(decoded, real, step=step, reconstruction=loss, last_layer=last.weight)


def test_hinge_losses_are_the_papers() -> None:
    real, decoded = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    assert float(discriminator_loss(real, decoded)) == pytest.approx((2.5 / 3 + 3 / 3) / 2)
    assert float(generator_loss(decoded)) == pytest.approx(1 / 3)


def test_scores_are_of_patches_of_46_px() -> None:
    discriminator = PatchDiscriminator()
    pixels = torch.zeros(1, 3, 96, 96, requires_grad=True)
    scores = discriminator(pixels)
    assert scores.shape == (1, 1, 11, 11)
    for level in discriminator.children():  # normalisation looks everywhere: leave it out
        if isinstance(level, nn.Sequential):
            level[1] = nn.Identity()
    (seen,) = torch.autograd.grad(discriminator(pixels)[0, 0, 5, 5], pixels)
    assert int(seen.abs().sum((0, 1)).any(0).sum()) == 46


def test_the_two_sides_share_no_gradient() -> None:
    term, last = term_of(SMALL), decoder()
    terms = terms_of(term, last)
    own = list(term.parameters())
    from_generator = torch.autograd.grad(
        terms["generator"], [last.weight, *own], retain_graph=True, allow_unused=True
    )
    assert float(from_generator[0].norm()) > 0
    assert set(from_generator[1:]) == {None}
    from_discriminator = torch.autograd.grad(
        terms["discriminator"], [last.weight, *own], allow_unused=True
    )
    assert from_discriminator[0] is None
    assert all(float(gradient.norm()) > 0 for gradient in from_discriminator[1:])


def test_nothing_is_asked_before_the_start() -> None:
    term, last = term_of(SMALL.model_copy(update={"start_step": 5})), decoder()
    calls: list[int] = []
    term.discriminator.register_forward_pre_hook(lambda *_: calls.append(1))
    before = terms_of(term, last, step=4)
    assert [float(value) for value in before.values()] == [0, 0, 0]
    assert not calls
    assert terms_of(term, last, step=5)["discriminator"].item() > 0


def test_a_fixed_weight_multiplies_the_score() -> None:
    last = decoder()
    one, three = (
        terms_of(term_of(SMALL.model_copy(update={"weight": weight})), last)
        for weight in (1.0, 3.0)
    )
    assert three["generator"].item() == pytest.approx(3 * one["generator"].item())
    assert three["discriminator"].item() == one["discriminator"].item()


def test_an_adaptive_weight_equalises_gradients_at_the_last_layer() -> None:
    last, real = decoder(), images(2)
    term = term_of(SMALL.model_copy(update={"weight": 0.5, "adaptive": True}))
    decoded = last(real)
    loss = 10 * (decoded - real).abs().mean()
    terms = term(decoded, real, step=0, reconstruction=loss, last_layer=last.weight)
    assert not terms["weight"].requires_grad
    norms = [
        torch.autograd.grad(value, last.weight, retain_graph=True)[0].norm().item()
        for value in (terms["generator"], loss)
    ]
    assert norms[0] == pytest.approx(0.5 * norms[1], rel=1e-3)


def test_the_ratio_of_gradients_is_bounded() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert gradient_ratio((3 * weight).sum(), (2 * weight).sum(), weight).item() == pytest.approx(
        1.5
    )
    assert gradient_ratio(weight.sum(), (0 * weight).sum(), weight).item() == 1e4


def test_a_discriminator_finds_an_offset_and_leads_the_decoder_out_of_it() -> None:
    """One optimiser for both sides; no reconstruction loss punishes the offset here."""
    term, offset = term_of(SMALL), nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.AdamW(
        [{"params": term.parameters(), "lr": 0.003}, {"params": offset, "lr": 0.03}]
    )
    caught, offsets = [], []
    for step in range(40):
        terms = term(
            images(500 + step) * 0.2 + offset,
            images(10 + step) * 0.2,
            step=step,
            reconstruction=offset.sum(),
            last_layer=offset,
        )
        caught.append(terms["discriminator"].item())
        optimizer.zero_grad()
        (terms["generator"] + terms["discriminator"]).backward()
        optimizer.step()
        offsets.append(offset.detach().abs().item())
    assert caught[0] == pytest.approx(1, abs=0.3)
    assert min(caught) < 0.2
    assert min(offsets) < 0.1


@pytest.mark.parametrize("wrong", [{"channels": (12,)}, {"weight": -1}, {"disc_start": 3}])
def test_wrong_knobs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AdversarialConfig(**wrong)
