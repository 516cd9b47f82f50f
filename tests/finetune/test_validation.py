"""Validation: samples as the exported generator draws them, the same on any number of workers."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from safetensors.torch import load_file, save_file

from cluster.local import free_ports
from factory.arrays import Images
from factory.errors import ConfigError, DataError
from factory.finetune.checkpoint import read_notes
from factory.finetune.cluster import Sharding
from factory.finetune.data import spread
from factory.finetune.plan import Plan
from factory.finetune.run import Result, finetune_here, prepare
from factory.finetune.samples import samples_of
from factory.finetune.validation import Validation, add_to_curve, advice, read_curve
from factory.finetune.workers import Workers
from factory.methods.text.adapt import adapt, text_samples
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.draw import TextMethod
from factory.models.generator import Generator, open_generator
from factory.models.lora import open_lora
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.finetune.test_run import config

COUNTS = {"lymphocyte": 3, "monocyte": 2}


def settings(base: Generator, **validation: object) -> FinetuneConfig:
    training = {
        "steps": 4,
        "batch_size": 4,
        "warmup_steps": 1,
        "learning_rate": 0.01,
        "ema_decay": 0.9,
    }
    known = {"every_steps": 1, "draw_every": 2, "num_inference_steps": 2}
    return config(base, train="full", training=training, validation=known | validation)


def grid_of(images: dict[str, Images], path: Path) -> np.ndarray:
    from factory.measure.sheets import write_sheet

    write_sheet(path, images)
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def trained(
    base: Generator,
    dataset: RealDataset,
    split: Split,
    features: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Plan:
    asked = settings(base, features=str(features), max_images=10, images_per_class=2)
    plan = prepare(asked, dataset, split, tmp_path_factory.mktemp("trained"))
    finetune_here(plan, tell=print)
    return plan


def test_the_grid_shows_what_the_exported_generator_draws(trained: Plan, tmp_path: Path) -> None:
    generator = open_generator(trained.output / "generator")
    method = TextMethod(load_pipeline(generator), "cpu")
    draw = samples_of(method, trained.config, Workers(), size_px=16)
    images = draw(dict.fromkeys(generator.class_names, 2))
    assert [len(own) for own in images.values()] == [2] * 5
    expected = grid_of(images, tmp_path / "expected.png")
    found = np.asarray(Image.open(trained.folder_of("all") / "samples" / "step-00000004.png"))
    assert found.shape == expected.shape
    assert (np.abs(found.astype(int) - expected) <= 1).all()  # text is encoded alone there


def test_every_second_validation_draws_and_the_card_shows_the_last(trained: Plan) -> None:
    grids = sorted(path.name for path in (trained.folder_of("all") / "samples").iterdir())
    assert grids == ["step-00000002.png", "step-00000004.png"]
    folder = trained.output / "generator"
    card = (folder / "README.md").read_text()
    result = Result.load(trained.folder_of("all"))
    assert set(result.metrics) == {"val_loss", "val_kid", "val_passed"}
    assert f"| all | 4 | {result.metrics['val_kid']:.4g} |" in card
    assert "](samples.png)" in card
    assert Image.open(folder / "samples.png").size == Image.open(result.grid).size


def test_drawing_leaves_the_training_as_it_was(
    trained: Plan, base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(settings(base, draw_every=None), dataset, split, tmp_path)
    finetune_here(plan, tell=print)
    drawn, plain = (load_file(p.folder_of("all") / "weights.safetensors") for p in (trained, plan))
    assert all(torch.equal(drawn[name], plain[name]) for name in drawn)
    assert not (tmp_path / "generator" / "samples.png").exists()


def test_the_best_checkpoint_is_exported(
    base: Generator,
    dataset: RealDataset,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the losses are on this processor, the curve that the choice is made by is this."""
    curve = iter((0.5, 0.4, 0.2, 0.3, 0.2, 0.6))
    best = 3  # the first of the lowest
    measured = Validation.__call__
    monkeypatch.setattr(
        Validation, "__call__", lambda now: measured(now) | {"val_loss": next(curve)}
    )
    training = {"steps": 6, "batch_size": 2, "warmup_steps": 0, "learning_rate": 5.0}
    validation = {"every_steps": 1, "draw_every": 4, "best_by": "val_loss"}
    asked = config(base, training=training, validation=validation, only=["monocyte"])
    plan = prepare(asked, dataset, split, tmp_path)
    finetune_here(plan, tell=print)
    result, folder = Result.load(plan.folder_of("all")), plan.folder_of("all")
    assert result.step == best
    kept = folder / "checkpoints" / f"step-{best:08d}"
    assert read_notes(kept).metrics["val_loss"] == result.metrics["val_loss"]
    assert result.grid == folder / "samples" / f"step-{best:08d}.png"
    stored = {k: v for p in kept.glob("*.safetensors") for k, v in load_file(p).items()}
    exported = open_lora(plan.output / "generator" / "lora" / "all").tensors
    pairs = {name for name in stored if name.startswith("model/") and "lora_" in name}
    assert len(pairs) == len(exported)
    total = sum(float(stored[name].double().square().sum()) for name in pairs)
    assert total == pytest.approx(
        sum(float(value.double().square().sum()) for value in exported.values())
    )


def test_images_are_spread_over_the_classes() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    rows = spread(labels, 20)
    counts = {name: sum(labels[row] == name for row in rows) for name in "abc"}
    assert len(set(rows)) == 20
    assert counts == {"a": pytest.approx(12, abs=1), "b": pytest.approx(6, abs=1), "c": 2}
    assert spread(labels, 500) == list(range(100))


@pytest.mark.parametrize(
    ("validation", "kind", "message"),
    [
        ({"best_by": "val_kid"}, ConfigError, "val_kid needs validation.features"),
        ({"best_by": "loss"}, ConfigError, "validation.best_by is 'loss'"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(
    validation: dict[str, object], kind: type[Exception], message: str, base: Generator
) -> None:
    with pytest.raises(kind, match=message):
        settings(base, **validation)


def test_a_best_checkpoint_needs_images_that_were_held_out(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    none = replace(split, train=tuple(sorted((*split.train, *split.val))), val=())
    with pytest.raises(DataError, match=r"best_by val_loss needs 1 .* has 0"):
        prepare(settings(base, best_by="val_loss"), dataset, none, tmp_path)


def _draw(rank: int, sharding: Sharding, base: str, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    generator = open_generator(Path(base))
    workers = Workers(rank=rank, world_size=2, sharding=sharding)
    asked = config(generator, training={"batch_size": 2})
    adaptation = adapt(load_pipeline(generator), asked, tuple(COUNTS), workers=workers)
    images = text_samples(adaptation, 16)(COUNTS)
    save_file({n: torch.from_numpy(i) for n, i in images.items()}, Path(folder) / str(rank))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_workers_draw_what_one_draws(sharding: str, base: Generator, tmp_path: Path) -> None:
    asked = config(base, training={"batch_size": 1})
    alone = text_samples(adapt(load_pipeline(base), asked, tuple(COUNTS)), 16)(COUNTS)
    mp.spawn(_draw, (sharding, str(base.folder), free_ports(1)[0], str(tmp_path)), nprocs=2)
    for rank in "01":
        found = load_file(tmp_path / rank)
        for name, images in alone.items():
            assert np.array_equal(found[name].numpy(), images), name


def losses(*values: float) -> dict[int, dict[str, float]]:
    return {100 * (1 + n): {"val_loss": value} for n, value in enumerate(values)}


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        (losses(1.0, 0.8, 0.7, 0.6), r"still fell, by 25% in the second half.*steps=800"),
        (losses(1.0, 0.5, 0.5, 0.5, 0.5, 0.5), "hardly moved in the second half: 600 steps"),
        (losses(1.0, 0.5, 0.6, 0.8), r"lowest at step 200 \(0.5000\) and rose.*exports step 200"),
        ({400: {"val_passed": 0.25}}, r"75% of the samples are refused.*more than 400 steps"),
    ],
)
def test_the_curve_advises_on_the_length(curve: dict[int, dict[str, float]], told: str) -> None:
    (line,) = advice(curve)
    assert re.search(told, line)


def test_no_curve_advises_nothing_and_a_run_that_went_back_forgets(tmp_path: Path) -> None:
    assert advice({}) == advice(losses(1.0, 0.5)) == advice({4: {"val_passed": 0.75}}) == []
    path = tmp_path / "validation.json"
    assert read_curve(path) == {}
    for step, value in ((100, 1.0), (200, 0.9), (300, 0.8), (200, 0.95)):
        add_to_curve(path, step, {"val_loss": value})
    assert read_curve(path) == {100: {"val_loss": 1.0}, 200: {"val_loss": 0.95}}
