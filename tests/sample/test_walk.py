"""Walks through noise levels: RePaint's counts, where skipping starts, exactness of the ends."""

from collections import Counter

import pytest
import torch

from factory.errors import ConfigError
from factory.methods.pairs.options import first_level
from factory.models.pair_unet import pair_scheduler
from factory.sample import loop as w
from factory.sample.levels import Levels, SolverLevels, solver_levels

CONFIG = pair_scheduler().config
SOLVERS = ("ddpm", "ddim", "dpmpp_2m", "unipc")


def levels(scheduler: str = "ddim", steps: int = 200) -> SolverLevels:
    return solver_levels(scheduler, CONFIG, steps)


def test_repaint_takes_960_steps_down_and_760_up() -> None:
    moves = Counter(w.repaint_moves(200, jump_length=10, repeats=5))
    assert moves == {w.DOWN: 960, w.UP: 760}
    assert Counter(w.repaint_moves(200, jump_length=10, repeats=10)) == {w.DOWN: 1910, w.UP: 1710}


@pytest.mark.parametrize(("steps", "jump"), [(20, 3), (20, 19), (5, 10), (7, 1)])
def test_repaint_stays_between_noise_and_image_and_ends_there(steps: int, jump: int) -> None:
    index = steps - 1
    for move in w.repaint_moves(steps, jump_length=jump, repeats=3):
        index += move
        assert -1 <= index < steps
    assert index == -1


def test_without_repeats_repaint_only_goes_down() -> None:
    assert w.repaint_moves(50, jump_length=10, repeats=1) == [w.DOWN] * 50


def test_respacing_200_skipping_80_takes_120_steps() -> None:
    first = first_level(200, 80)
    assert first == 120
    taken: list[int] = []
    known = levels("ddpm")
    w.walk(
        torch.zeros(1, 1, 2, 2),
        lambda state, level: (taken.append(level), torch.zeros_like(state))[1],
        known,
        [w.DOWN] * first,
        first=first,
        generators=[torch.Generator().manual_seed(0)],
    )
    assert taken == list(range(120, 0, -1))
    assert known.timesteps[[1, 2, 3, -2, -1]].tolist() == [0, 5, 10, 994, 999]  # i * 999 / 199


@pytest.mark.parametrize("skip", [-1, 200, 300])
def test_skipping_everything_is_refused(skip: int) -> None:
    with pytest.raises(ConfigError, match=f"skip_timesteps {skip} of 200"):
        first_level(200, skip)


def test_a_solver_that_cannot_be_walked_is_refused() -> None:
    with pytest.raises(ConfigError, match="'pndm' cannot start from an image"):
        levels("pndm")


@pytest.mark.parametrize("scheduler", SOLVERS)
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_network_that_knows_the_image_leads_to_it(scheduler: str, repeats: int) -> None:
    clean = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
    known = levels(scheduler, 20)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    start = known.at(20, clean, w.noise_like(clean, generators))
    found = w.walk(
        start,
        lambda state, level: known.prediction(clean, state, level),
        known,
        w.repaint_moves(20, jump_length=5, repeats=repeats),
        first=20,
        generators=generators,
    )
    assert torch.allclose(found, clean, atol=2e-3)


def test_climbing_adds_the_noise_of_the_level_above() -> None:
    """From a clean image n levels up: the marginal of q(x_t | x_0), in mean and deviation."""
    known = levels("ddim", 20)
    start = torch.full((1, 1, 200, 200), 0.5)
    generators = [torch.Generator().manual_seed(3)]
    noisy = w.walk(
        start, lambda sample, _: sample, known, [w.UP] * 8, first=0, generators=generators
    )
    alpha = float(known.alphas_cumprod[8])
    assert float(noisy.mean()) == pytest.approx(0.5 * alpha**0.5, abs=0.01)
    assert float(noisy.std()) == pytest.approx((1 - alpha) ** 0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_a_prediction_and_its_clean_image_say_the_same(kind: str) -> None:
    noisy, clean = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    known = Levels(
        alphas_cumprod=torch.tensor([1, 0.3]), timesteps=torch.tensor([0, 5]), prediction_type=kind
    )
    prediction = known.prediction(clean, noisy, 1)
    assert torch.allclose(known.clean(prediction, noisy, 1), clean, atol=1e-5)
    found, noise = known.clean_and_noise(prediction, noisy, torch.tensor([1, 1]))
    assert torch.allclose(found, clean, atol=1e-5)
    assert torch.allclose(known.at(1, found, noise), noisy, atol=1e-5)
