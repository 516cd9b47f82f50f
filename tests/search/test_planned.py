"""Trials and what draws for them share a cluster, so that neither waits for ever."""

import pytest

from factory.search.sweep import planned


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("share", [0.25, 1])
def test_every_actor_has_a_core_that_no_trial_holds(cores: int, gpus: int, share: float) -> None:
    found = planned({"CPU": cores, "GPU": gpus}, share)
    assert found.trials >= 1
    assert found.actors >= 1
    assert found.trials * found.cpus_per_trial + found.actors <= cores
    assert found.actors <= max(1, gpus / share)


def test_without_gpus_every_core_has_a_trial_and_the_drawer_draws_itself() -> None:
    found = planned({"CPU": 4}, 0)
    assert (found.trials, found.cpus_per_trial, found.actors) == (4, 1, 0)
