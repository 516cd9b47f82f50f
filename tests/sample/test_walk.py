"""Walks through noise levels: RePaint's counts, where skipping starts, exactness of the ends."""

from collections import Counter

import pytest
import torch

from factory.errors import ConfigError
from factory.models.pair_pipeline import pair_scheduler
from factory.sample.methods import walk as w
from factory.sample.methods.pairs_options import first_index

CONFIG = pair_scheduler().config
SOLVERS = ("ddpm", "ddim", "dpmpp_2m", "unipc")


def levels(scheduler: str = "ddim", steps: int = 200) -> w.Levels:
    return w.make_levels(scheduler, CONFIG, steps)


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


def test_respacing_200_skipping_80_starts_at_119_and_takes_120_steps() -> None:
    first = first_index(200, 80)
    assert first == 119
    taken: list[int] = []
    known = levels("ddpm")
    w.walk(
        torch.zeros(1, 1, 2, 2),
        lambda sample, index: (taken.append(index), torch.zeros_like(sample))[1],
        known,
        [w.DOWN] * (first + 1),
        first=first,
        generators=[torch.Generator().manual_seed(0)],
    )
    assert taken == list(range(119, -1, -1))
    assert known.timesteps[:3] + known.timesteps[-2:] == (0, 5, 10, 994, 999)  # i * 999 / 199


@pytest.mark.parametrize("skip", [-1, 200, 300])
def test_skipping_everything_is_refused(skip: int) -> None:
    with pytest.raises(ConfigError, match=f"skip_timesteps {skip} of 200"):
        first_index(200, skip)


def test_a_solver_that_cannot_be_walked_is_refused() -> None:
    with pytest.raises(ConfigError, match="'pndm' cannot start from an image"):
        levels("pndm")


@pytest.mark.parametrize("scheduler", SOLVERS)
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_network_that_knows_the_image_leads_to_it(scheduler: str, repeats: int) -> None:
    clean = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
    known = levels(scheduler, 20)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    start = known.noised(clean, w.noise_like(clean, generators), 19)
    found = w.walk(
        start,
        lambda sample, index: w.from_clean("v_prediction", sample, clean, known.alpha(index)),
        known,
        w.repaint_moves(20, jump_length=5, repeats=repeats),
        first=19,
        generators=generators,
    )
    assert torch.allclose(found, clean, atol=2e-3)


def test_climbing_adds_the_noise_of_the_level_above() -> None:
    """From a clean image n levels up: the marginal of q(x_t | x_0), in mean and deviation."""
    known = levels("ddim", 20)
    start = torch.full((1, 1, 200, 200), 0.5)
    generators = [torch.Generator().manual_seed(3)]
    noisy = w.walk(
        start, lambda sample, _: sample, known, [w.UP] * 8, first=-1, generators=generators
    )
    alpha = float(known.alpha(7))
    assert float(noisy.mean()) == pytest.approx(0.5 * alpha**0.5, abs=0.01)
    assert float(noisy.std()) == pytest.approx((1 - alpha) ** 0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_a_prediction_and_its_clean_image_say_the_same(kind: str) -> None:
    sample, clean, alpha = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor(0.3)
    prediction = w.from_clean(kind, sample, clean, alpha)
    assert torch.allclose(w.to_clean(kind, sample, prediction, alpha), clean, atol=1e-5)
