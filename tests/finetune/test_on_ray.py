"""The same LoRAs on Ray Train as in one process, two targets side by side, and through a kill."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from factory.errors import ClusterError
from factory.finetune.plan import Plan
from factory.finetune.run import finetune_here, finetune_on_ray, prepare
from factory.models.generator import Generator
from factory.models.lora import open_lora
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.finetune.test_run import config

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


@pytest.mark.slow
def test_targets_without_room_bring_no_processes_yet(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    import ray

    whole = {"cpus_per_worker": int(ray.cluster_resources()["CPU"])}
    classes = list(dataset.class_names)
    plan = prepare(
        config(base, separate=True, only=classes, cluster=whole), dataset, split, tmp_path
    )
    seen, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            titles = (" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
            seen.append(sum(title.startswith("ray::TrainController") for title in titles))

    watcher = threading.Thread(target=watch)
    watcher.start()
    finetune_on_ray(plan)
    done.set()
    watcher.join()
    assert len(plan.targets) >= 3
    assert 1 <= max(seen) <= 2  # one, and for a moment the one before it


LONG: dict[str, Any] = {
    "training": {"steps": 400, "batch_size": 2, "warmup_steps": 1},
    "validation": {"every_steps": 100, "draw_every": None},  # each one waits for Ray's next poll
}
KILLS = 10


def difference(first: Plan, second: Plan) -> float:
    """Return the largest difference of two runs' LoRA weights."""
    expected, found = tensors(first, "all"), tensors(second, "all")
    return max(float((expected[name] - found[name]).abs().max()) for name in expected)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "ddp", "fsdp"])
def test_a_run_that_is_killed_ten_times_ends_with_the_same_lora(
    sharding: str, base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    whole = prepare(config(base, **LONG), dataset, split, tmp_path / "whole")
    finetune_here(whole, tell=lambda _: None)
    cluster = {
        "sharding": sharding,
        "workers": 1 if sharding == "none" else 2,
        "max_failures": 2 * KILLS,
        "checkpoint_seconds": 0.3,
    }
    asked = config(base, **LONG, cluster=cluster)
    killed = prepare(asked, dataset, split, tmp_path / "killed")
    with killing(killed.folder_of("all") / "checkpoints", KILLS) as kills:
        finetune_on_ray(killed)
    found = difference(whole, killed)
    print(f"{sharding}: killed at steps {kills}, largest difference {found:.2g}")
    assert len(kills) == KILLS
    assert kills == sorted(kills)
    assert found <= (0.0 if sharding == "none" else 1e-6)


@pytest.mark.fault
@pytest.mark.slow
def test_one_worker_finishes_what_two_began(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    whole = prepare(config(base, **LONG), dataset, split, tmp_path / "whole")
    finetune_here(whole, tell=lambda _: None)

    def plan(**cluster: object) -> Plan:
        known = {"max_failures": 0, "checkpoint_seconds": 0.3}
        asked = config(base, **LONG, cluster=known | cluster)
        return prepare(asked, dataset, split, tmp_path / "shrunk")

    begun = plan(workers=2, sharding="fsdp")
    place = begun.folder_of("all") / "checkpoints"
    refused = pytest.raises(ClusterError, match=r"checkpoints in .* are kept")
    with killing(place, 1) as kills, refused:
        finetune_on_ray(begun)
    assert len(kills) == 1  # else the group fell over by itself
    finished = plan(workers=1)
    finetune_on_ray(finished)
    found = difference(whole, finished)
    print(f"2 workers killed at step {kills}, largest difference {found:.2g}")
    assert found <= 1e-6


@contextmanager
def killing(checkpoints: Path, most: int) -> Iterator[list[int]]:
    """Kill a training worker soon after each of the next `most` new checkpoints.

    Yields the steps of these checkpoints: a run that did not go on from them would not pass them.
    """
    kills: list[int] = []
    stop, rng = threading.Event(), random.Random(0)

    def work() -> None:
        while len(kills) < most and not stop.wait(0.05):
            step = max((int(path.name[5:]) for path in checkpoints.glob("step-*")), default=0)
            if step > (kills[-1] if kills else 0):
                stop.wait(rng.random() * 0.3)
                if workers := _workers():  # none while their group is started again
                    with suppress(psutil.NoSuchProcess):  # it went by itself: another one, then
                        rng.choice(workers).send_signal(signal.SIGKILL)
                        kills.append(step)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield kills
    finally:
        stop.set()
        thread.join()


def _workers() -> list[psutil.Process]:
    """Return the training workers that descend from this process."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join([process.name(), *process.cmdline()]):
                found.append(process)
    return found
