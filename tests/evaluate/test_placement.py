"""Trainings of a study ask Ray for a share of a GPU, where there is one and they gain from it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from cluster.local import free_ports, ray_head
from factory.config import parse_config
from factory.device import DEVICE
from factory.errors import ConfigError
from factory.evaluate import backbones, placement
from factory.evaluate.config import (
    Classifier,
    ClipLora,
    Learner,
    MaskProbe,
    Probe,
    SegmenterLearner,
    StudyConfig,
)
from factory.evaluate.placement import Room, gpus_per_training, room_for
from factory.models.config import ExpertSpec
from factory.models.experts import build_expert

ARMS = {"real": {"design": "real"}, "more": {"design": "oversample"}}


@pytest.mark.parametrize(
    ("learner", "share"),
    [
        (Classifier(), 0.25),
        (Classifier(size_px=384), 1),
        (Classifier(clip=ClipLora(folder="clip")), 1),
        (SegmenterLearner(), 0.25),
        (SegmenterLearner(size_px=512), 1),
        (Probe(), 0),
        (MaskProbe(), 0),
    ],
    ids=str,
)
def test_by_itself_a_training_takes_a_share_of_what_the_cluster_could_start(
    monkeypatch: pytest.MonkeyPatch, learner: Learner, share: float
) -> None:
    for gpus in ((1.0, 1.0), (0.0, 4.0)):
        monkeypatch.setattr(placement, "cluster_gpus", lambda gpus=gpus: gpus)
        assert gpus_per_training(learner, None) == share
        assert gpus_per_training(learner, 0) == 0
        assert gpus_per_training(learner, 0.5) == 0.5
    monkeypatch.setattr(placement, "cluster_gpus", lambda: (0.0, 0.0))
    assert gpus_per_training(learner, None) == 0
    assert gpus_per_training(learner, 0) == 0
    with pytest.raises(ConfigError, match=r"gpus_per_training is 0\.5, and .* has 0 GPUs"):
        gpus_per_training(learner, 0.5)


@pytest.mark.parametrize(
    ("cores", "gpus", "learner", "asked", "told"),
    [
        (8, (0, 0), Classifier(), None, "8 cores"),
        (8, (1, 1), Classifier(), None, "4 cores, with 0.25 of a GPU each"),
        (2, (1, 1), Classifier(), None, "2 cores, with 0.25 of a GPU each"),
        (8, (2, 2), Classifier(), 1, "2 cores, with 1 GPU each"),
        (8, (1, 1), Classifier(), 0.1, "8 cores, with 0.1 of a GPU each"),
        (8, (0, 4), Classifier(), 1, "1 core, with 1 GPU each"),
        (8, (1, 1), Probe(), 1, "8 cores"),
        (8, (1, 1), MaskProbe(), None, "8 cores"),
    ],
    ids=str,
)
def test_as_many_train_at_once_as_there_are_cores_and_shares(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: tuple[float, float],
    learner: Learner,
    asked: float | None,
    told: str,
) -> None:
    monkeypatch.setattr(placement, "cluster_gpus", lambda: gpus)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": cores})
    assert str(room_for(learner, asked)) == told


@pytest.mark.parametrize(
    ("gpus", "asked", "looking"),
    [((1, 1), None, 1), ((1, 1), 0, 0), ((1, 1), 0.5, 0.5), ((0, 0), None, 0), ((0, 2), None, 1)],
)
def test_a_probes_network_looks_on_a_gpu_before_its_trainings(
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[float, float],
    asked: float | None,
    looking: float,
) -> None:
    monkeypatch.setattr(placement, "cluster_gpus", lambda: gpus)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4})
    assert room_for(Probe(), asked) == Room(at_once=4, gpus_looking=looking)


@pytest.mark.ray
def test_what_looks_elsewhere_sees_the_same_and_starts_with_its_first_images(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ExpertSpec(backbone="test_resnet", class_names=("one", "other"), size_px=32)
    network = build_expert(spec, seed=0).freeze()
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    here = backbones._placed(network, 0)(images)
    begun: list[float] = []
    remote = ray.remote

    def without_gpus(*what: object, **how: Any) -> object:
        begun.extend(share for share in [how.pop("num_gpus", None)] if share)
        return remote(*what, **how)

    monkeypatch.setattr(ray, "remote", without_gpus)
    there = backbones._placed(network, 0.5)
    assert not begun
    assert np.array_equal(there(images), here)
    assert np.array_equal(there(images[:3]), here[:3])
    assert begun == [0.5]


def test_a_task_on_a_gpu_trains_several_and_leaves_some_to_each_of_those_at_once() -> None:
    def size(count: int, gpus: float, learner: Learner) -> int:
        units = [SimpleNamespace(learner=learner)] * count
        return placement._trainings_a_task(units, Room(at_once=4, gpus=gpus))  # type: ignore[arg-type]

    assert [size(n, 0.25, Classifier()) for n in (1, 16, 48, 1000)] == [1, 1, 3, 8]
    assert size(1000, 0, Classifier()) == 1
    assert size(1000, 0, Probe()) == 8


def test_where_a_study_trains_does_not_name_it() -> None:
    plain = parse_config(StudyConfig, {"arms": ARMS}, where="test")
    placed = parse_config(StudyConfig, {"arms": ARMS, "gpus_per_training": 0.25}, where="test")
    assert plain.gpus_per_training is None
    assert placed.digest == plain.digest
    assert placed.primary_digest == plain.primary_digest
    for wrong in (2, -1, "many"):
        with pytest.raises(ConfigError, match="gpus_per_training"):
            parse_config(StudyConfig, {"arms": ARMS, "gpus_per_training": wrong}, where="test")


COMMAND = "from factory.cli import main; main()"
STUDY = ["evaluate", "--data", "smear:60?seed=4&size=16", "--config", "evaluate_finetuned"]
SMALL = ["backbone=test_resnet", "weights=null", "size_px=16", "steps=2", "batch_size=4"]


def _study(output: Path, *keys: str, **variables: str) -> subprocess.CompletedProcess[str]:
    asked = [f"learner.{key}" for key in SMALL] + [
        "arms={real: {design: real}, more: {design: oversample}}",
        "seeds=[0]",
        *keys,
    ]
    words = [*STUDY, "--output", str(output)] + [w for key in asked for w in ("--set", key)]
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables},
    )


def _results(output: Path) -> dict[str, dict[str, object]]:
    """Return what the trainings of a study gave, but for how long they took."""
    read = {path.stem: json.loads(path.read_text()) for path in (output / "units").iterdir()}
    return {unit: {**told, "seconds": None} for unit, told in read.items()}


@pytest.mark.ray
@pytest.mark.slow
def test_trainings_hold_a_gpu_of_ray_and_none_where_none_is_wanted(tmp_path: Path) -> None:
    """The GPU is a number of Ray's: who holds it and computes on a GPU says that there is none."""
    open_to = {"RAY_AUTH_MODE": "disabled"}
    (port,) = free_ports(1)
    with ray_head("--num-cpus=2", "--num-gpus=1", port=port, **open_to) as head:
        at = {**open_to, "RAY_ADDRESS": head.address}
        held = _study(tmp_path / "held", **at)
        assert held.returncode == 1
        assert "error: this process holds GPU 0, and PyTorch" in held.stderr
        assert "gpus_per_training: 0" in held.stderr
        assert ", line " not in held.stderr  # of a traceback
        free = _study(tmp_path / "free", "gpus_per_training=0", **at)
        assert free.returncode == 0, free.stderr[-2000:]
    on_cpus = {**open_to, DEVICE: "cpu"}
    (port,) = free_ports(1)
    with ray_head("--num-cpus=2", "--num-gpus=1", port=port, **on_cpus) as head:
        at = {**on_cpus, "RAY_ADDRESS": head.address}
        placed = _study(tmp_path / "placed", "gpus_per_training=0.5", **at)
    assert placed.returncode == 0, placed.stderr[-2000:]
    assert "2 cores, with 0.5 of a GPU each" in placed.stdout + placed.stderr
    assert _results(tmp_path / "placed") == _results(tmp_path / "free")


@pytest.mark.ray
@pytest.mark.slow
def test_gpus_that_no_node_of_the_cluster_has_are_refused_in_a_line(tmp_path: Path) -> None:
    done = _study(tmp_path / "study", "gpus_per_training=0.25")
    assert done.returncode == 1
    assert "gpus_per_training is 0.25, and this Ray cluster has 0 GPUs" in done.stderr
    assert "Traceback" not in done.stderr
