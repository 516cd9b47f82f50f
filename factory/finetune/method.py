"""What the trainer knows of a method: how it prepares, what it trains, what it leaves behind.

A method is a module `factory.methods.<name>.train` with the functions of `Training`; the trainer
finds it by the name that its line in `factory.method` gives it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from factory.finetune.data import Material
from factory.finetune.memory import Sketch
from factory.finetune.order import Part
from factory.finetune.plan import Plan
from factory.finetune.samples import Draw
from factory.finetune.workers import Workers
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.terminal import Tell

Follow = Callable[..., None]
"""Runs a loop to its end: `follow_here` or `follow`, with where to report bound to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A network in training on one target, on one worker.

    Args:
        model: what the loop steps, as `workers.place` returned it.
        workers: this worker among its peers.
        loss: of a part of a step, named terms of which 'loss' is minimised.
        validate: of at most so many images of the val part, the same terms as 'val_...'; empty
            where there are none.
        tensors: what is exported of the present weights, on the CPU; with shards every worker
            must call it.
        depends_on: see `Training.depends_on`.
        sample: draws classes with the present weights; None: nobody can say what to draw.
        rows: the classes of a grid of samples.
        held_out: images of the val part that samples are held against.
    """

    model: nn.Module
    workers: Workers
    loss: Callable[[Part], dict[str, Tensor]]
    validate: Callable[[int], dict[str, float]]
    tensors: Callable[[], dict[str, Tensor]]
    depends_on: Mapping[str, Any] = field(default_factory=dict)
    sample: Draw | None = None
    rows: tuple[str, ...] = ()
    held_out: Material | None = None


class InTraining(Protocol):
    """A network in training, as a method makes it: it knows losses, not images."""

    @property
    def model(self) -> nn.Module:
        """What the loop steps."""
        ...

    @property
    def workers(self) -> Workers:
        """The worker that it lies on, among its peers."""
        ...

    def loss(self, material: Material, part: Part, /) -> dict[str, Tensor]:
        """Return the named losses of a part of a step; 'loss' is minimised."""
        ...

    def validate(self, material: Material, /, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `material`, always with the same noise."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what is exported."""
        ...


def task_of(
    training: InTraining,
    learn: Material,
    held_out: Material | None = None,
    *,
    depends_on: Mapping[str, Any] | None = None,
    sample: Draw | None = None,
    rows: Sequence[str] = (),
) -> Task:
    """Return the task of training on `learn` and validating on `held_out`; see `Task`."""

    def validate(max_images: int) -> dict[str, float]:
        return training.validate(held_out, max_images=max_images) if held_out else {}

    return Task(
        model=training.model,
        workers=training.workers,
        loss=partial(training.loss, learn),
        validate=validate,
        tensors=training.tensors,
        depends_on=depends_on or {},
        sample=sample,
        rows=tuple(rows),
        held_out=held_out,
    )


class Training(Protocol):
    """How a method is trained, in this order."""

    def prepare(
        self,
        config: Any,
        dataset: RealDataset,
        split: Split,
        output: Path,
        *,
        stages: Path | None = None,
        tell: Tell,
    ) -> Plan:
        """Return what will be trained, with `planned`; everything wrong with it is said now."""
        ...

    def trains_first(self, plan: Plan, /) -> bool:
        """Whether an autoencoder is still to be trained before the targets."""
        ...

    def first_stage(self, plan: Plan, /, *, device: str, follow: Follow) -> None:
        """Make what all targets share, on one worker, and keep it in `plan.stages`."""
        ...

    def depends_on(self, plan: Plan, target: str, /) -> Mapping[str, Any] | None:
        """Return all that a target's weights depend on; None where it is not known yet.

        A checkpoint of something else is refused.
        """
        ...

    def task(self, plan: Plan, target: str, workers: Workers, /) -> Task:
        """Return the network of a target, ready to be trained."""
        ...

    def export(self, plan: Plan, /) -> Generator:
        """Write the generator of the finished targets and return it, the first of several."""
        ...

    def sketch(self, config: Any, learn: Material | None, /) -> Sketch:
        """Return the network on paper, for images such as `learn`; None: of two classes."""
        ...
