"""Every method trains on a pretended GPU, which is waited for once in fifty steps."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from factory.device import LOOK_STEPS
from factory.errors import ModelError
from factory.finetune.autoencoder import Lesson, train_first_stage
from factory.finetune.config import AdversarialConfig, FirstStageConfig, NoiseLevels
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.method import task_of
from factory.finetune.order import Part
from factory.finetune.run import loop_of, prepare, training_of
from factory.finetune.train import follow_here
from factory.finetune.workers import Workers
from factory.methods.pairs.task import build_task
from factory.methods.text.pretraining import pretraining
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.fakes.pretended_gpu import PretendedGpu, pretended_gpu
from tests.finetune import test_class_conditional, test_pairs, test_resume, test_run

GPU = Workers(device="cuda")
QUIETLY = partial(follow_here, tell=str)


def waits_a_step(loop: Loop, gpu: PretendedGpu) -> Counter[str]:
    """Take five steps, then five of which nobody is told; return what waited in those."""
    steps = loop.run()
    for _ in range(5):
        next(steps)
    before = gpu.waits.copy()
    for _ in range(5):
        next(steps)
    return gpu.waits - before


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_base_is_adapted(
    base: Generator, dataset: RealDataset, split: Split, tmp_path: Path, train: str, precision: str
) -> None:
    training = {"steps": 12, "batch_size": 4, "precision": precision, "snr_gamma": 5.0}
    config = test_run.config(
        base,
        train=train,
        training=training | {"accumulate": 2, "gradient_checkpointing": train == "full"},
    )
    plan = prepare(config, dataset, split, tmp_path)
    training_of(plan).first_stage(plan, device="cpu", follow=QUIETLY)
    with pretended_gpu() as gpu:
        task = training_of(plan).task(plan, plan.targets[0], GPU)
        assert not waits_a_step(loop_of(task, config, None), gpu)


@pytest.mark.parametrize("conditioning", ["context_class", "text", "concat"])
def test_classes_are_trained(
    dataset: RealDataset, split: Split, tmp_path: Path, conditioning: str
) -> None:
    config = test_class_conditional.config(
        unet={"conditioning": conditioning},
        training={"steps": 12},
    )
    plan = prepare(config, dataset, split, tmp_path)
    training_of(plan).first_stage(plan, device="cpu", follow=QUIETLY)
    with pretended_gpu() as gpu:
        task = training_of(plan).task(plan, plan.targets[0], GPU)
        assert not waits_a_step(loop_of(task, config, None), gpu)


def test_pairs_are_trained(tmp_path: Path) -> None:
    real = test_pairs.write_pairs(tmp_path, count=14, classes=("a", "b"), values=(0, 128, 255))
    real = (test_pairs.open_dataset(real[0]), test_pairs.load_split(Path(real[1])))
    config = test_pairs.config(12, condition="class")
    pairs = test_pairs.learnt(config, *real)
    with pretended_gpu() as gpu:
        task = build_task(config, pairs, workers=GPU)
        assert not waits_a_step(loop_of(task_of(task, pairs), config, None), gpu)


def test_a_base_is_trained_from_scratch(tmp_path: Path) -> None:
    config = test_resume.config(steps=12, noise_levels=NoiseLevels(log_mean=0.0))
    learn = replace(test_resume.DATA, latents=test_resume.LATENTS)
    with pretended_gpu() as gpu:
        training = pretraining(learn, config, deepcopy(test_resume.AUTOENCODER), GPU)
        task = task_of(training, learn)
        assert not waits_a_step(loop_of(task, config, None), gpu)


def test_an_autoencoder_is_trained_beside_its_adversary(tmp_path: Path) -> None:
    stage = FirstStageConfig(
        steps=12,
        batch_size=2,
        warmup_steps=0,
        channels=(16, 16, 16),
        scaling_factor=1.0,
        adversarial=AdversarialConfig(channels=(8,), start_step=0, adaptive=True),
    )
    lesson = Lesson(images=test_resume.DATA.images, seed=0, device="cuda")
    waits = []
    with pretended_gpu() as gpu:
        train_first_stage(
            stage,
            lesson,
            tmp_path / "autoencoder",
            follow=lambda loop: waits.append(waits_a_step(loop, gpu)),
        )
    assert waits == [Counter()]


LINE = LoopConfig(
    steps=120,
    batch_size=1,
    learning_rate=0.1,
    warmup_steps=0,
    decay_steps=0,
    weight_decay=0.0,
    ema_decay=0.0,
    precision="float32",
)


def line(device: str, *, spoiled: int = -1) -> Loop:
    """The loop of one weight, whose loss is no number from a step on."""
    model = torch.nn.Linear(1, 1, bias=False).to(device)

    def loss_of(module: torch.nn.Module, part: Part) -> dict[str, torch.Tensor]:
        loss = module(torch.ones(1, 1, device=device)).mean()
        return {"loss": loss * float("nan") if part.step >= spoiled >= 0 else loss}

    return Loop(model, loss_of, LINE, Workers(device=device))


def test_a_gpu_is_waited_for_once_in_fifty_steps() -> None:
    with pretended_gpu() as gpu:
        loop = line("cuda")
        waits = [gpu.waits.total(), *(gpu.waits.total() for _ in loop.run())]
    looked = [step for step, (a, b) in enumerate(pairwise(waits), 1) if b > a]
    assert looked == [LOOK_STEPS, 2 * LOOK_STEPS, 120]


def test_a_loss_that_is_no_number_moves_no_weight_and_is_told_at_the_next_look() -> None:
    """On 'cpu:0' the loop behaves as on a GPU: it looks only now and then."""
    loop, weights = line("cpu:0", spoiled=7), []
    with pytest.raises(ModelError, match="step 7: loss nan"):
        weights.extend(float(loop.model.weight.detach()) for _ in loop.run())
    assert len(set(weights[:7])) == 7
    assert weights[6:] == [weights[6]] * (LOOK_STEPS - 7)
