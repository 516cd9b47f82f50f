"""A group of one or two workers that loses a node: announced or not, the LoRA is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from factory.finetune.run import finetune_here, prepare
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.finetune.test_on_ray import LONG, difference
from tests.finetune.test_run import config


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("way", ["notice", "none"])
def test_a_group_that_loses_a_node_finishes_with_what_is_left(
    way: str, base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    long = LONG | {"training": {"steps": 2500, "batch_size": 2, "warmup_steps": 1}}
    whole = prepare(config(base, **long), dataset, split, tmp_path / "whole")
    finetune_here(whole, tell=lambda _: None)
    seconds = 1000 if way == "notice" else 2  # no checkpoint but the one that a notice asks for
    cluster = {"workers": [1, 2], "sharding": "ddp", "checkpoint_seconds": seconds}
    asked = config(base, **long, cluster=cluster)
    shrunk = prepare(asked, dataset, split, tmp_path / "shrunk")
    done = subprocess.run(
        [sys.executable, "-m", "tests.finetune.elastic", str(shrunk.output), way],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=900,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("TOLD "))
    told, found = json.loads(line[5:]), difference(whole, shrunk)
    print(f"{way}: {told}, largest difference {found:.2g}")
    assert told["at_loss"]
    assert told.get("at_notice", []) == []
    assert found <= 1e-6
