"""Two workers, copied or sharded, train what one trains; killed groups go on where they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cluster.local import free_ports
from factory.errors import ConfigError
from factory.finetune.checkpoint import checkpoints
from factory.finetune.workers import Workers, autocast, uses_bfloat16
from tests.finetune.group import make_loop

STEPS = 20


def run_group(count: int, sharding: str, folder: Path, *, stop_after: int = 0) -> int:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.finetune.group", str(count), sharding, str(STEPS)]
    done = subprocess.run(
        [*command, str(folder), str(free_ports(1)[0])],
        env={**os.environ, "STOP_AFTER": str(stop_after), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=900,
        check=False,
        text=True,
    )
    if not stop_after:
        assert done.returncode == 0, done.stderr
    return done.returncode


def losses(folder: Path) -> list[float]:
    """Return the loss of every step; where a step ran twice, the last run counts."""
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    by_step = dict(rows)
    assert sorted(by_step) == list(range(1, STEPS + 1))
    return [by_step[step] for step in sorted(by_step)]


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return [p.losses["loss"] for p in make_loop(Workers(), STEPS, None).run()]


@pytest.mark.parametrize("sharding", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_workers_give_the_curve_of_one(
    sharding: str, alone: list[float], tmp_path: Path
) -> None:
    run_group(2, sharding, tmp_path)
    assert losses(tmp_path) == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "count"), [("fsdp", 2), ("ddp", 1)])
def test_a_killed_group_goes_on_with_as_many_or_fewer(
    sharding: str, count: int, alone: list[float], tmp_path: Path
) -> None:
    assert run_group(2, sharding, tmp_path, stop_after=10) != 0
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step-00000009"]
    run_group(count, sharding if count > 1 else "none", tmp_path)
    assert losses(tmp_path) == pytest.approx(alone, abs=1e-5)


def test_workers_without_a_way_to_stay_alike_are_refused() -> None:
    with pytest.raises(ConfigError, match="as many models"):
        make_loop(Workers(world_size=2), STEPS, None)


def test_parts_of_unequal_size_give_the_curve_of_one(alone: list[float]) -> None:
    """As an elastic group of three has them: 3 + 3 + 2 of 8 images."""
    loop = make_loop(Workers(), STEPS, None, accumulate=3)
    found = [next(steps).losses["loss"] for steps in [loop.run()] for _ in range(10)]
    assert found == pytest.approx(alone[:10], abs=1e-5)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 8 .* accumulate 9"):
        make_loop(Workers(), STEPS, None, accumulate=9)


@pytest.mark.parametrize(
    ("known", "computes"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_bfloat16_is_computed_only_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], computes: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert uses_bfloat16("bfloat16", "cpu") is computes
    with autocast("bfloat16", "cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if computes else torch.float32)
    assert uses_bfloat16("bfloat16", "cuda:0")
    assert not uses_bfloat16("float32", "cpu")
