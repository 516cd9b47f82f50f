"""How fast this machine is, measured in some seconds on the work that it will be given."""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from factory.config import load_config
from factory.evaluate.backbones import open_backbone
from factory.evaluate.config import Probe
from factory.finetune.loop import Loop
from factory.finetune.run import loop_of, prepare, training_of
from factory.finetune.workers import Workers
from factory.real.splits import Split
from factory.sample.batches import SampleActor
from factory.sample.config import GenerateConfig
from factory.sample.plan import Ranges
from factory.sample.prepare import prepare as prepared_run
from factory.start.plan import PAIR_BATCH, PAIR_INFERENCE, Project, Speed

STEPS, DRAWN, LOOKED = 4, 16, 8
FORWARDS = 3
"""A training step is worth so many passes of its images: forwards, and backwards at twice that."""


def measured(images: Project, split: Split, config: Any, *, begun: float, read: float) -> Speed:
    """Return the speed of a training step, of drawing and of looking.

    Args:
        images: what is learnt from.
        split: of them; its train part is read.
        config: of the training.
        begun: `time.monotonic()` before torch was imported.
        read: seconds that reading all images took.

    Raises:
        FactoryError: what the training itself would raise.
    """
    with tempfile.TemporaryDirectory() as folder:
        first, steps = _steps_of(images, split, config, Path(folder))
        step = _each(steps)
        if images.task == "masks":
            passes = PAIR_INFERENCE * (2 if len(images.dataset.class_names) > 1 else 1)
            draw = passes * step / (FORWARDS * PAIR_BATCH)
        else:
            draw = _draw_seconds(config.base, folder)
    return Speed(
        command=(first or steps)[0] - begun,
        read=read,
        first=_each(first) if first else 0.0,
        step=step,
        draw=draw,
        look=_look_seconds(),
    )


def _steps_of(
    images: Project, split: Split, config: Any, folder: Path
) -> tuple[list[float], list[float]]:
    """Return the times between a few steps, of the first stage (none: no such) and of the rest."""
    changes = {"training": config.training.model_copy(update={"steps": STEPS})}
    adapts = images.task == "classes" and config.autoencoder.steps > 0
    if adapts:
        changes["autoencoder"] = config.autoencoder.model_copy(update={"steps": STEPS})
    plan = prepare(config.model_copy(update=changes), images.dataset, split, folder)
    training, first = training_of(plan), list[float]()

    def timed(loop: Loop, **_options: Any) -> None:
        first.append(time.monotonic())
        first.extend(time.monotonic() for _ in loop.run())

    training.first_stage(plan, device="cpu", follow=timed)
    task = training.task(plan, plan.targets[0], Workers())
    steps = [time.monotonic()]
    steps.extend(time.monotonic() for _ in loop_of(task, plan.config, None).run())
    return first, steps


def _each(times: list[float]) -> float:
    """Return the seconds of a step, the first left out: it has what is done once."""
    return median(after - before for before, after in pairwise(times[1:]))


def _draw_seconds(base: str, folder: str) -> float:
    keys = (f"model={base}", f"num_images={DRAWN}", f"batch_size={DRAWN}", "seed=0")
    run = prepared_run(load_config(GenerateConfig, "wbc", keys), f"{folder}/catalog")
    actor = SampleActor(run, Ranges.of([]))
    batch = run.plan.batch(0)
    actor.drawn(batch)  # with what is loaded once
    begun = time.monotonic()
    actor.drawn(batch)
    return (time.monotonic() - begun) / DRAWN


def _look_seconds() -> float:
    backbone = open_backbone(Probe())
    some = np.zeros((LOOKED, 64, 64, 3), np.uint8)
    backbone.extract(some)
    begun = time.monotonic()
    backbone.extract(some)
    return (time.monotonic() - begun) / LOOKED
