"""The same LoRAs on Ray Train as in one process, two targets side by side, and through a kill."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from factory.finetune.plan import Plan
from factory.finetune.run import finetune_here, finetune_on_ray, prepare
from factory.models.generator import Generator
from factory.models.lora_file import open_lora
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.finetune.test_run import base, config, dataset, split

__all__ = ["base", "dataset", "split"]  # fixtures
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def tensors(plan: Plan, target: str) -> dict[str, torch.Tensor]:
    return dict(open_lora(plan.output / "generator" / "lora" / target).tensors)


@pytest.mark.parametrize(
    "classes",
    [["monocyte"], pytest.param(["eosinophil", "monocyte"], marks=pytest.mark.slow)],
    ids=["one", "side by side"],
)
def test_targets_on_ray_equal_those_of_one_process(
    classes: list[str], base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plans = []
    for name, run in (("here", lambda p: finetune_here(p, tell=print)), ("ray", finetune_on_ray)):
        asked = config(base, separate=True, only=classes)
        plans.append(prepare(asked, dataset, split, tmp_path / name))
        run(plans[-1])
    for target in plans[0].targets:
        here, there = (tensors(plan, target) for plan in plans)
        assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "ddp", "fsdp"])
def test_a_run_whose_workers_are_killed_ends_with_the_same_lora(
    sharding: str, base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    """Kills one worker of the group again and again; `max_failures` lets Ray start it anew."""
    training = {"steps": 400, "batch_size": 2, "warmup_steps": 1}
    whole = prepare(config(base, training=training), dataset, split, tmp_path / "whole")
    finetune_here(whole, tell=print)

    cluster = {"sharding": sharding, "workers": 1 if sharding == "none" else 2, "max_failures": 20}
    asked = config(base, training=training, cluster=cluster)
    killed = prepare(asked, dataset, split, tmp_path / "killed")
    stop = threading.Event()
    kills: list[int] = []
    thread = threading.Thread(target=_kill_workers, args=(stop, kills, 10), daemon=True)
    thread.start()
    try:
        finetune_on_ray(killed)
    finally:
        stop.set()
        thread.join()
    assert kills
    expected, found = tensors(whole, "all"), tensors(killed, "all")
    bound = 0.0 if sharding == "none" else 1e-6
    for name, value in expected.items():
        assert (value - found[name]).abs().max() <= bound


def _kill_workers(stop: threading.Event, kills: list[int], most: int) -> None:
    """Kill training workers that descend from this process, a few seconds after they began."""
    while not stop.is_set() and len(kills) < most:
        time.sleep(8 + len(kills) % 5)
        for process in psutil.Process(os.getpid()).children(recursive=True):
            if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(
                process.cmdline()
            ):
                process.send_signal(signal.SIGKILL)
                kills.append(process.pid)
                break
