"""Losses against hand-computed values."""

import pytest
import torch
from diffusers import DDPMScheduler

from factory.errors import ConfigError
from factory.finetune.config import STABLE_DIFFUSION, NoiseLevels
from factory.finetune.losses import (
    Noised,
    add_noise,
    denoising_loss,
    log_normal_timesteps,
    min_snr_weight,
    training_scheduler,
)
from factory.finetune.order import Part, parts

CLEAN = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def scheduler_of(prediction_type: str) -> DDPMScheduler:
    return DDPMScheduler.from_config(training_scheduler().config, prediction_type=prediction_type)


def noised(scheduler: DDPMScheduler) -> Noised:
    return add_noise(scheduler, CLEAN, Part(step=3), batch_size=4, seed=1)


@pytest.mark.parametrize(
    ("kind", "divisor"), [("epsilon", 0.0), ("v_prediction", 1.0), ("sample", None)]
)
def test_min_snr_weights_are_the_papers_formula(kind: str, divisor: float | None) -> None:
    scheduler = scheduler_of(kind)
    scheduler.alphas_cumprod = torch.tensor([0.99, 0.5, 0.01])
    weights = min_snr_weight(scheduler, torch.tensor([0, 1, 2]), gamma=5.0)
    expected = []
    for snr in (99.0, 1.0, 0.01 / 0.99):
        weight = min(snr, 5.0)
        expected.append(weight if divisor is None else weight / (snr + divisor))
    assert weights.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_costs_nothing(kind: str) -> None:
    scheduler = scheduler_of(kind)
    mixed = noised(scheduler)
    alpha = scheduler.alphas_cumprod[mixed.timesteps][:, None, None, None]
    noise = (mixed.noisy - alpha.sqrt() * CLEAN) / (1 - alpha).sqrt()
    perfect = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * CLEAN,
        "sample": CLEAN,
    }[kind]
    assert float(denoising_loss(scheduler, mixed, perfect, snr_gamma=5.0)) < 1e-6
    assert float(denoising_loss(scheduler, mixed, perfect + 1, snr_gamma=None)) == pytest.approx(
        1.0, abs=1e-3
    )


def test_an_unknown_prediction_type_is_refused() -> None:
    scheduler = scheduler_of("flow_prediction")
    with pytest.raises(ConfigError, match="flow_prediction"):
        denoising_loss(scheduler, noised(scheduler), CLEAN, snr_gamma=None)


def test_workers_and_accumulation_change_no_noise() -> None:
    scheduler = training_scheduler()
    whole = noised(scheduler)
    for rank, accumulate in ((0, 1), (1, 1), (0, 2), (1, 2)):
        for part in parts(3, rank=rank, world_size=2, accumulate=accumulate):
            own = add_noise(scheduler, part.take(CLEAN), part, batch_size=4, seed=1)
            assert torch.equal(own.noise, part.take(whole.noise))
            assert torch.equal(own.noisy, part.take(whole.noisy))


def test_log_normal_levels_have_their_mean_and_deviation_one_in_every_stratum() -> None:
    scheduler = training_scheduler(STABLE_DIFFUSION.model_copy(update={"beta_end": 0.02}))
    sigmas = (1 / scheduler.alphas_cumprod - 1).sqrt()
    levels = NoiseLevels(log_mean=-0.4, log_deviation=1.0)
    drawn = [
        log_normal_timesteps(scheduler, 16, levels, torch.Generator().manual_seed(seed))
        for seed in range(40)
    ]
    logs = torch.stack([sigmas[timesteps].log() for timesteps in drawn])
    assert float(logs.mean()) == pytest.approx(-0.4, abs=0.02)
    assert float(logs.std()) == pytest.approx(1.0, abs=0.05)
    strata = torch.special.ndtr(logs + 0.4).mul(16)  # of the batch: one in each, in any order
    assert float((strata.sort(1).values - torch.arange(16) - 0.5).abs().max()) < 0.75
    assert not torch.equal(drawn[0], drawn[0].sort().values)
    again = log_normal_timesteps(scheduler, 16, levels, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[0], again)
