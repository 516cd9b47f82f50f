"""What a distillation is asked for, and what can be wrong with it: known before torch is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.config import Frozen, load_config, parse_config
from factory.errors import ConfigError
from factory.models.families import STABLE_DIFFUSION
from factory.models.folder import read_json
from factory.models.generator import Generator
from factory.sample.config import Drawing, GenerateConfig
from factory.sample.method import method_of
from factory.sample.plan import Plan
from factory.sample.prepare import drawn_by, make_plan, with_classes, with_defaults
from factory.sample.row_prompts import with_table
from factory.sample.schedulers import SCHEDULERS

SOLVER = "ddim"
"""Of a student: its step is a straight line in the estimates, which one evaluation can learn."""


class StudentTraining(Frozen):
    """Length and rates, as `factory.finetune.config.TrainingConfig` has them."""

    steps: int = Field(4000, ge=1)
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    warmup_steps: int = Field(100, ge=0)
    decay_steps: int | None = Field(None, ge=0)
    final_fraction: float = Field(0.0, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"


class DistillConfig(Frozen):
    """A student, its teacher's drawings, and how it learns from them."""

    name: str | None = None
    """null: that of the teacher with '-fast'."""
    steps: int = Field(4, ge=1, le=50)
    """Evaluations of the student for an image, without guidance."""
    teacher: Drawing
    """What is drawn to be learnt, as `factory generate` takes it: model, classes or table, steps,
    guidance, seed (null: 0). `num_images` are ways from noise to image, kept in the output."""
    held_out: int = Field(256, ge=1)
    """Ways of the teacher that are not learnt, for validation."""
    training: StudentTraining = StudentTraining()
    validate_every: int = Field(250, ge=1)

    @model_validator(mode="after")
    def _can_be_learnt(self) -> "DistillConfig":
        teacher, few = self.teacher, self.steps
        solvers = [n for n, s in SCHEDULERS.items() if s.walks and not s.noisy]
        if teacher.scheduler not in solvers:
            raise ValueError(
                f"teacher.scheduler {teacher.scheduler!r}: choose one that comes to the same image"
                f" from the same noise, and through its own noise levels: {', '.join(solvers)}"
            )
        if teacher.num_inference_steps % few:
            raise ValueError(
                f"teacher.num_inference_steps {teacher.num_inference_steps} is no multiple of"
                f" steps {few}: the teacher has to come by where the student stops"
            )
        if teacher.guidance_scale < 1:
            raise ValueError(
                f"teacher.guidance_scale {teacher.guidance_scale:g}: a student is drawn under its"
                " condition; set 1 or more"
            )
        if self.held_out >= teacher.num_images:
            raise ValueError(
                f"held_out {self.held_out} of teacher.num_images {teacher.num_images} leaves"
                " nothing to learn"
            )
        return self


def load_distillation(
    source: str | Path, overrides: Sequence[str], model: str
) -> tuple[DistillConfig, Generator, Plan]:
    """Return what is distilled: its configuration, the teacher, and the plan of its drawings.

    Args:
        source: a file or preset.
        overrides: KEY=VALUE.
        model: the teacher's name, folder or hub id.

    Raises:
        ConfigError: a key or value that is wrong, a teacher that cannot be distilled, or what
            `make_plan` refuses.
        ModelError: no such generator.
    """
    config = load_config(DistillConfig, source, [f"teacher.model={model}", *overrides])
    drawing = config.teacher.model_dump() | {"seed": config.teacher.seed or 0}
    asked = parse_config(GenerateConfig, drawing, where=f"{source}: teacher")
    generator = drawn_by(asked)
    _check_teacher(generator)
    asked, table = with_table(asked, generator)
    asked = with_defaults(with_classes(asked, generator), generator)
    kept = {name: getattr(asked, name) for name in Drawing.model_fields}
    config = config.model_copy(update={"teacher": Drawing(**kept)})
    return config, generator, make_plan(asked, generator, table=table)


def _check_teacher(generator: Generator) -> None:
    """Refuse generators whose network is not one of latents under one set of weights.

    Raises:
        ConfigError: with the reason, and what can be distilled instead.
    """
    name = generator.name
    if not method_of(generator.method).invertible or generator.family is not STABLE_DIFFUSION:
        raise ConfigError(
            f"generator {name!r} of method {generator.method!r} cannot be distilled: what it draws"
            " is not the latents of one denoiser",
            remedy="Distil a generator of method text (Stable Diffusion 1 or 2, wbc-base) or"
            " class_conditional",
        )
    if read_json(generator.weights / "unet" / "config.json").get("conditioning") == "concat":
        raise ConfigError(
            f"generator {name!r} draws over masks of real images, and a student sees none",
            remedy="Distil a generator of another conditioning",
        )
    if len(generator.adapters) > 1:
        raise ConfigError(
            f"generator {name!r} has a LoRA for each of {len(generator.adapters)} classes, and a"
            " student has one set of weights",
            remedy="Train one LoRA for all classes (factory finetune --set separate=false), and"
            " distil that",
        )
