"""The student: a copy of the teacher's denoiser that learns each stretch of its ways as one step.

Where progressive distillation halves the steps again and again, all stretches are learnt at once
here, from states that the teacher came by; guidance is in them. No real image is seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from factory.device import own_device, up
from factory.distill.config import SOLVER, DistillConfig
from factory.distill.trajectories import Trajectories, record
from factory.finetune.cluster import ClusterConfig
from factory.finetune.loop import Loop, loop_config
from factory.finetune.order import Part, step_indices
from factory.finetune.run import CHECKPOINTS, averaged
from factory.finetune.train import follow_here
from factory.measure.sheets import pairs, sheet_of
from factory.models.card import distilled_card
from factory.models.export import write_generator
from factory.models.generator import CLUSTERS, DISTILLED, RINGS_FILE, SEEN, TEACHER, Generator
from factory.sample.engine import Engine
from factory.sample.guidance import GuidedMethod, to_uint8
from factory.sample.levels import SolverLevels, clean_of, solver_levels
from factory.sample.plan import Plan
from factory.terminal import Tell

GENERATOR, SHEET = "generator", "sheet.png"
LOOKED_AT = 64
"""Ways that a validation holds in memory at a time."""
SHOWN = 6
"""Ways of each class on the sheet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Student:
    """A denoiser in training: what it is told, and what it should have said."""

    method: GuidedMethod
    """Draws with the student's own network."""
    levels: SolverLevels
    """Its noise levels: `steps` of them, and 0."""

    def velocity_losses(self, ways: Trajectories, rows: Tensor, stretches: Tensor) -> Tensor:
        """Return the squared errors (B,) of one step from where stretches begin to where they end.

        In velocities, whatever the network predicts: weights of SNR + 1 on the clean image.
        Source: Salimans and Ho, Progressive Distillation, 2022, section 4 and appendix G.

        Args:
            ways: of the teacher.
            rows: (B,) which of them.
            stretches: (B,) 0 .. steps - 1, 0 from pure noise.
        """
        device, levels = self.method.device, self.levels
        noisy = up(ways.states[rows, stretches], device)
        ended = up(ways.states[rows, stretches + 1], device)
        level = up(levels.top - stretches, device)
        signal, sigma = levels.scales(level, noisy)
        clean = straight(noisy, ended, (signal, sigma), levels.scales(level - 1, noisy))
        with torch.no_grad():
            conditions = self.method.conditions([ways.requests[int(row)] for row in rows], (True,))
        told = self.method.predict(noisy, levels.timesteps[level], *conditions)
        found = clean_of(levels.prediction_type, noisy, told, signal, sigma)
        return ((found - clean) / sigma).square().flatten(1).mean(1)

    @torch.no_grad()
    def drawn(self, ways: Trajectories) -> Tensor:
        """Return latents (N, C, h, w) that the student draws from the noise of the ways."""
        levels, state = self.levels, up(ways.states[:, 0], self.method.device)
        conditions = self.method.conditions(ways.requests, (True,))
        for at in range(levels.top, 0, -1):
            told = self.method.predict(state, levels.timesteps[at], *conditions)
            clean, noise = levels.clean_and_noise(told, state, at)
            state = levels.at(at - 1, clean, noise)
        return state


def straight(
    noisy: Tensor, ended: Tensor, at: tuple[Tensor, Tensor], below: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the clean image (B, C, h, w) that leads a step of DDIM from `noisy` to `ended`.

    Source: Salimans and Ho 2022, appendix G. `at` and `below` are the `scales` of both.
    """
    ratio = below[1] / at[1]
    return (ended - ratio * noisy) / (below[0] - ratio * at[0])


def distil(
    config: DistillConfig, teacher: Generator, plan: Plan, output: Path, *, tell: Tell
) -> Generator:
    """Record the teacher's ways, train the student on them, and export it to `output`/generator.

    What is there is not made again: the same call goes on where a killed one stopped.

    Args:
        config: as `load_distillation` resolved it, with its teacher and plan.
        teacher: whose network is copied.
        plan: of the teacher's drawings.
        output: folder of the training.
        tell: hears what happens.

    Raises:
        ConfigError: a teacher that comes not by the student's noise levels.
        DataError: recorded ways that were damaged.
        ModelError: the teacher cannot be loaded; a checkpoint of another configuration.
    """
    device = own_device()
    ways = record(
        Engine(teacher, dtype=config.teacher.dtype, device=device),
        plan,
        config.steps,
        output,
        tell=tell,
    )
    learn, held = ways.parted(config.held_out)
    engine = Engine(teacher, device=device)  # in float32, and its embeddings know no inference mode
    method = engine.guided(learn.requests[0].recipe.class_name)
    levels = solver_levels(SOLVER, method.training_config, config.steps).on(device)
    student = Student(method=method, levels=levels)
    network = method.unet.requires_grad_(True).train()
    loop = Loop(
        network,
        lambda _network, part: _loss(student, learn, part, config),
        loop_config(
            config.training,
            ClusterConfig(),
            resumable={
                "teacher": teacher.model_id,
                "plan": plan.digest,
                "steps": config.steps,
                "training": config.training.model_dump(mode="json", exclude={"steps"}),
            },
            checkpoint_dir=output / CHECKPOINTS,
        ),
    )

    def validate() -> dict[str, float]:
        with averaged(loop):
            return validation(student, held)

    follow_here(loop, tell=tell, validate=validate, validate_every=config.validate_every)
    with averaged(loop):
        figures = validation(student, held)
        return _export(config, teacher, engine.pipeline, student, held, figures, output)


def _loss(
    student: Student, learn: Trajectories, part: Part, config: DistillConfig
) -> dict[str, Tensor]:
    """Return the loss of a part of a step: each stretch of each way comes once an epoch."""
    picked = step_indices(
        part.step,
        batch_size=config.training.batch_size,
        num_images=len(learn) * config.steps,
        seed=config.teacher.seed or 0,
    )
    rows, stretches = np.divmod(part.take(picked), config.steps)
    losses = student.velocity_losses(learn, torch.from_numpy(rows), torch.from_numpy(stretches))
    return {"loss": losses.mean()}


@torch.no_grad()
def validation(student: Student, held: Trajectories) -> dict[str, float]:
    """Return figures on ways that were not learnt.

    'val_loss' of single steps, and 'val_distance': how far the student's own latents, drawn from
    the ways' noise, lie from the teacher's, as a share of how far those lie from their mean (root
    mean squares; 1: the student might as well draw the mean).
    """
    network: nn.Module = student.method.unet
    network.eval()
    losses, apart = [], []
    for first in range(0, len(held), LOOKED_AT):
        some = held.rows(range(first, min(first + LOOKED_AT, len(held))))
        for stretch in range(held.steps):
            rows = torch.arange(len(some))
            losses.append(student.velocity_losses(some, rows, torch.full_like(rows, stretch)))
        ended = up(some.states[:, -1], student.method.device)
        apart.append((student.drawn(some) - ended).square().flatten(1).mean(1))
    network.train()
    spread = (held.states[:, -1] - held.states[:, -1].mean(0)).square().mean()
    distance = torch.cat(apart).mean().cpu() / spread
    return {"val_loss": float(torch.cat(losses).mean()), "val_distance": float(distance.sqrt())}


def _export(
    config: DistillConfig,
    teacher: Generator,
    pipeline: Any,
    student: Student,
    held: Trajectories,
    figures: Mapping[str, float],
    output: Path,
) -> Generator:
    """Write the student as a generator: the teacher's folder with another denoiser in it."""
    student.method.unet.eval()
    base = teacher.base().model_id if teacher.adapters else teacher.model_id
    manifest = {
        key: value for key, value in teacher.manifest.items() if key not in _OF_ADAPTERS
    } | {
        "name": config.name or f"{teacher.manifest.get('name', teacher.name)}-fast",
        "method": teacher.method,
        "base_model_id": base,
        "size_px": held.requests[0].recipe.height_px,
        "config": _told(config, teacher),
        "validation": {"all": {"step": config.training.steps, **figures}},
        DISTILLED: {
            "scheduler": SOLVER,
            "num_inference_steps": config.steps,
            "guidance_scale": 1.0,
            TEACHER: teacher.model_id,
        },
    }
    files = {
        name: (teacher.folder / name).read_bytes()
        for name in (SEEN, RINGS_FILE, CLUSTERS)
        if (teacher.folder / name).is_file()
    }
    files[SHEET] = _sheet(student, held)
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    for part in (parts["unet"], parts["vae"]):
        part.to(memory_format=torch.contiguous_format)
    return write_generator(
        output / GENERATOR,
        parts=parts,
        manifest=manifest,
        card=distilled_card(manifest),
        files=files,
        dtype=torch.float16,
    )


def _told(config: DistillConfig, teacher: Generator) -> dict[str, Any]:
    """Return the configuration as a folder carries it: without places on this machine."""
    told = config.model_dump(mode="json")
    told["teacher"]["model"] = teacher.manifest.get("name", Path(teacher.name).name)
    if config.teacher.table is not None:
        told["teacher"]["table"] = Path(config.teacher.table).name
    return told


_OF_ADAPTERS = frozenset({"base", "base_revision", "adapters", "lora_scale", "base_lora_scale"})
"""Keys of a manifest that say what LoRAs lie on: a student has them in its weights."""


@torch.no_grad()
def _sheet(student: Student, held: Trajectories) -> bytes:
    """Return a row for each class: what the teacher drew, and beside it the student, same noise."""
    rows = {}
    for name in sorted({request.recipe.class_name for request in held.requests}):
        own = [n for n, r in enumerate(held.requests) if r.recipe.class_name == name][:SHOWN]
        some = held.rows(own)
        drawn = [
            _pixels(student.method, each) for each in (some.states[:, -1], student.drawn(some))
        ]
        rows[f"{name}: teacher, student"] = pairs(*drawn)
    return sheet_of(rows)


def _pixels(method: GuidedMethod, latents: Tensor) -> Any:
    return to_uint8(method.decode(up(latents, method.device)))
