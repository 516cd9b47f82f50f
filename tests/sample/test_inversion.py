"""Inversion on a Gaussian, where every step and the exact map are known."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factory.errors import ConfigError
from factory.methods.bridge.inversion import denoise_from, evaluations_of, invert
from factory.sample.levels import PREDICTIONS, Levels, even_levels
from tests.fakes.bridge import Counted

MEAN, STD = 0.4, 0.3
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def gaussian(levels: Levels):
    """The best prediction there is for data of N(MEAN, STD^2), in these levels' terms."""
    alphas = even_levels(SCHEDULE, 1000).alphas_cumprod[1:]

    def predict(noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        alpha = alphas[timesteps].view(-1, 1, 1, 1).to(noisy)
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        noise = sigma * (noisy - signal * MEAN) / (alpha * STD**2 + sigma**2)
        clean = (noisy - sigma * noise) / signal
        kinds = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - sigma * clean}
        return kinds[levels.prediction_type]

    return predict


def levels_of(steps: int, prediction_type: str = "epsilon") -> Levels:
    return even_levels(SCHEDULE | {"prediction_type": prediction_type}, steps)


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn((count, 2, 4, 4), generator=generator, dtype=torch.float64)
    return MEAN + STD * drawn


def exact(clean: Tensor, alpha: float) -> Tensor:
    """The probability-flow map of the Gaussian: it keeps how many deviations a value is out."""
    scale = math.sqrt(alpha * STD**2 + 1 - alpha) / STD
    return math.sqrt(alpha) * MEAN + scale * (clean - MEAN)


def top_of(levels: Levels, clean: Tensor, corrections: int = 0) -> Tensor:
    return list(invert(gaussian(levels), levels, clean, corrections=corrections))[-1].state


def psnr(first: Tensor, second: Tensor) -> float:
    return float(-10 * torch.log10(((first - second) ** 2).mean() / 4))


def test_levels_run_from_clean_to_the_noisiest_timestep():
    levels = levels_of(100)
    assert levels.top == 100
    assert levels.alphas_cumprod[0] == 1
    assert levels.timesteps[[1, 2, 100]].tolist() == [9, 19, 999]
    assert (levels.alphas_cumprod.diff() < 0).all()


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_inversion_tends_to_the_exact_map(kind: str):
    clean = images()
    errors = []
    for steps in (25, 100, 400, 1000):
        levels = levels_of(steps, kind)
        wanted = exact(clean, float(levels.alphas_cumprod[-1]))
        errors.append(float((top_of(levels, clean) - wanted).abs().max()))
    assert errors[-1] < 0.02
    assert all(finer < 0.75 * coarser for coarser, finer in pairwise(errors))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_step_is_the_formula(kind: str):
    """x' = sqrt(a') x0 + sqrt(1 - a') eps, with the noise of the level above (eq. 12, eta 0)."""
    levels, clean = levels_of(10, kind), images(1)
    low, high = invert(gaussian(levels), levels, clean), float(levels.alphas_cumprod[1])
    next(low)
    sigma = math.sqrt(1 - high)
    noise = sigma * (clean - math.sqrt(high) * MEAN) / (high * STD**2 + sigma**2)
    torch.testing.assert_close(next(low).state, math.sqrt(high) * clean + sigma * noise)


def round_trip(steps: int, depth: int, corrections: int = 0) -> float:
    levels, clean = levels_of(steps), images()
    state = [*invert(gaussian(levels), levels, clean, corrections=corrections)][depth].state
    back = denoise_from(gaussian(levels), levels, state, [depth] * 3, slots=3)
    return psnr(back, clean)


def test_the_way_there_and_back_gets_better_with_steps():
    found = [round_trip(steps, steps) for steps in (20, 50, 100, 200)]
    assert found == sorted(found)
    assert found[2] > 30
    assert found[3] > found[0] + 15


def test_corrections_make_the_round_trip_exact():
    plain, once, often = (round_trip(20, 20, corrections=n) for n in (0, 1, 30))
    assert plain + 5 < once < often
    assert often > 120


def test_the_noise_of_the_gaussian_is_standard_normal():
    levels, clean = levels_of(200), images(64)
    top = top_of(levels, clean)
    assert abs(float(top.mean())) < 0.05
    assert float(top.std()) == pytest.approx(1, abs=0.05)


def test_levels_come_one_at_a_time():
    levels = levels_of(50)
    counted = Counted(gaussian(levels))
    climb = invert(counted, levels, images(2))
    for depth in (3, 10, 11):
        next(at for at in climb if at.level == depth)
        assert counted.forwards == depth
        assert counted.evaluations == 2 * depth


@settings(max_examples=30, deadline=None)
@given(
    depths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    slots=st.integers(1, 7),
)
def test_every_depth_is_denoised_as_if_alone_and_counted(depths: list[int], slots: int):
    levels = levels_of(12)
    climbed = [at.state for at in invert(gaussian(levels), levels, images(1))]
    states = torch.cat([climbed[depth] for depth in depths])
    counted = Counted(gaussian(levels))
    together = denoise_from(counted, levels, states, depths, slots=slots)
    for row, depth in enumerate(depths):
        alone = denoise_from(gaussian(levels), levels, states[row : row + 1], [depth], slots=1)
        assert torch.equal(together[row : row + 1], alone)
    assert counted.evaluations == sum(depths) == evaluations_of(0, depths)
    lower = max(max(depths), -(-sum(depths) // slots))
    assert lower <= counted.forwards <= sum(depths) / slots + max(depths)


def test_every_forward_has_the_same_shape():
    levels, shapes = levels_of(10), set()

    def watched(noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        shapes.add(tuple(noisy.shape))
        return gaussian(levels)(noisy, timesteps, rows)

    denoise_from(watched, levels, images(5), [1, 4, 10, 7, 2], slots=3)
    assert shapes == {(3, 2, 4, 4)}


def test_ten_uniform_depths_cost_what_was_predicted():
    levels = levels_of(100)
    counted = Counted(gaussian(levels))
    steps = list(invert(counted, levels, images(1)))
    depths = list(range(10, 101, 10))
    states = torch.cat([steps[depth].state for depth in depths])
    denoise_from(counted, levels, states, depths, slots=4)
    assert counted.evaluations == evaluations_of(100, depths) == 650
    assert evaluations_of(100, depths, corrections=1, sides=2) == 1300


def test_zero_terminal_signal_can_be_denoised():
    config = SCHEDULE | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    levels = even_levels(config, 20)
    assert float(levels.alphas_cumprod[-1]) < 1e-6
    flat = denoise_from(lambda x, t, r: torch.zeros_like(x), levels, images(1), [20], slots=1)
    assert torch.isfinite(flat).all()


def test_more_levels_than_timesteps_are_refused():
    with pytest.raises(ConfigError, match="1001 inversion steps"):
        levels_of(1001)
