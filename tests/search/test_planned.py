"""Trials and what draws for them share a cluster, so that neither waits for ever."""

from itertools import product

import pytest

from factory.errors import ConfigError
from factory.search.shares import Wishes, planned


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("actor", [None, 0.25, 0.5, 1, 2])
def test_a_trial_and_an_actor_always_fit_at_once(
    cores: int, gpus: int, actor: float | None
) -> None:
    for trial, usual in product((None, 0, 0.25, 1), (0, 0.25, 1)):
        _fits_at_once(cores, gpus, Wishes(actor=actor, trial=trial, usual=usual))


def _fits_at_once(cores: int, gpus: int, wishes: Wishes) -> None:
    actor, trial = wishes.actor, wishes.trial
    if actor and trial and gpus and actor + trial > gpus:
        with pytest.raises(ConfigError, match="do not fit at once into"):
            planned(cores, gpus, wishes)
        return
    if trial and not gpus:  # refused before, see `gpus_per_training`
        return
    found = planned(cores, gpus, wishes)
    assert found.trials >= 1
    assert found.trials * found.cpus_per_trial + found.actors <= cores
    held = found.actors * found.gpus_per_actor + found.trials * found.gpus_per_trial
    assert held <= max(gpus, found.gpus_per_actor)  # which a cluster that grows is asked for
    assert found.gpus_per_trial == trial or trial is None
    assert found.gpus_per_actor == actor or actor is None
    if gpus and not (actor is None and trial == gpus):  # all of them were asked for trials
        assert found.actors >= 1


@pytest.mark.parametrize(
    ("cores", "gpus", "wishes", "told"),
    [
        (4, 0, {}, "4 trials at once"),
        (2, 1, {}, "1 trial at once; images are drawn on 1 x 1 GPU"),
        (4, 1, {"usual": 0.25}, "2 trials at once, with 0.25 of a GPU each; images are drawn on"),
        (
            4,
            1,
            {"usual": 1},
            "1 trial at once, with 0.5 of a GPU each; images are drawn on 1 x 0.5",
        ),
        (4, 1, {"actor": 1, "usual": 1}, "3 trials at once; images are drawn on 1 x 1 GPU"),
        (4, 1, {"trial": 1}, "1 trial at once, with 1 GPU each"),
        (4, 1, {"actor": 0, "trial": 0.25}, "4 trials at once, with 0.25 of a GPU each"),
        (
            32,
            8,
            {"usual": 0.25},
            "16 trials at once, with 0.25 of a GPU each; images are drawn on 4",
        ),
        (32, 8, {"usual": 1}, "4 trials at once, with 1 GPU each; images are drawn on 4 x 1 GPU"),
        (32, 8, {}, "24 trials at once; images are drawn on 8 x 1 GPU"),
        (2, 0, {"actor": 1}, "1 trial at once; images are drawn on 1 x 1 GPU"),
    ],
    ids=str,
)
def test_what_nobody_asked_for_gives_way(
    cores: int, gpus: int, wishes: dict[str, float], told: str
) -> None:
    assert str(planned(cores, gpus, Wishes(**wishes))).startswith(told)


def test_without_gpus_every_core_has_a_trial_and_the_drawer_draws_itself() -> None:
    found = planned(4, 0, Wishes(usual=0.25))
    assert (found.trials, found.cpus_per_trial, found.actors) == (4, 1, 0)
    assert (found.gpus_per_actor, found.gpus_per_trial) == (0, 0)
