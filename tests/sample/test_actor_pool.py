"""How many actors run and what each holds, on clusters that have GPUs, share them, or grow."""

from typing import Any

import pytest

from factory.sample import stream
from factory.sample.config import GenerateConfig, StreamConfig

Found = tuple[int, int, int | None, float]


def found_on(patch: pytest.MonkeyPatch, cpus: int, gpus: tuple[int, int], **config: Any) -> Found:
    """Return the least, first and most actors, and the GPUs of each, for 50 batches."""
    patch.setattr(stream, "cluster_gpus", lambda: gpus)
    patch.setattr("ray.cluster_resources", lambda: {"CPU": cpus})
    pool, resources = stream.actor_pool(StreamConfig(**config), batches=50)
    assert resources["num_cpus"] == 0.75
    return pool.min_size, pool.initial_size, pool.max_size, resources.get("num_gpus", 0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "config", "expected"),
    [
        (4, (0, 0), {}, (1, 4, 4, 0)),
        (4, (0, 0), {"actors": 2}, (1, 2, 2, 0)),
        (4, (0, 0), {"actors": 9}, (1, 4, 4, 0)),
        (8, (2, 2), {}, (1, 2, 2, 1)),
        (8, (2, 2), {"actors": 5}, (1, 2, 2, 1)),
        (8, (2, 2), {"gpus_per_actor": 0}, (1, 8, 8, 0)),
        (8, (2, 2), {"gpus_per_actor": 0.25, "actors": 8}, (1, 8, 8, 0.25)),
        (0, (0, 4), {}, (1, 1, 4, 1)),
        (0, (0, 0), {"gpus_per_actor": 1}, (1, 1, 50, 1)),
        (0, (0, 0), {"gpus_per_actor": 1, "actors": (2, 6)}, (2, 2, 6, 1)),
    ],
    ids=str,
)
def test_actors_hold_what_is_asked_for_or_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    gpus: tuple[int, int],
    config: dict[str, Any],
    expected: Found,
) -> None:
    assert found_on(monkeypatch, cpus, gpus, **config) == expected


def test_a_share_that_nobody_sets_renames_no_configuration() -> None:
    assert "gpus_per_actor" not in StreamConfig().model_dump()
    assert StreamConfig(gpus_per_actor=0.5).model_dump()["gpus_per_actor"] == 0.5
    plain = GenerateConfig(num_images=1)
    assert plain.digest != GenerateConfig(num_images=1, stream={"gpus_per_actor": 1}).digest


@pytest.mark.parametrize("wrong", [{"gpus_per_actor": 1.5}, {"actors": (3, 2)}, {"actors": 0}])
def test_what_no_cluster_can_give_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"gpus_per_actor|actors"):
        StreamConfig(**wrong)


@pytest.mark.parametrize(
    ("dtype", "gpus", "told"),
    [("float32", 0, False), ("float32", 0.25, True), ("bfloat16", 1, False)],
)
def test_more_digits_than_gpus_need_are_told_and_not_changed(
    dtype: str, gpus: float, *, told: bool
) -> None:
    lines = stream.about_precision(dtype, gpus)
    assert bool(lines) is told
    assert not told or "--set dtype=bfloat16" in lines[0]
