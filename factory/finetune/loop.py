"""The training loop: one step after another, resumable, the same with and without Ray."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from factory.device import LOOK_STEPS
from factory.errors import ConfigError, ModelError
from factory.finetune.checkpoint import Checkpoints, Notes, load_checkpoint, read_notes
from factory.finetune.cluster import ClusterConfig
from factory.finetune.meter import NORM, STEP, Progress, Readings, count_flops, matmul_rate
from factory.finetune.order import Part, parts, warmup_hold_decay
from factory.finetune.state import Ema, state_tensors, trainable
from factory.finetune.workers import (
    Workers,
    autocast,
    gradients_kept,
    host_group,
    inner,
    mean_over_workers,
    uses_bfloat16,
)
from factory.models.shards import whole


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Lengths, rates and places of one training run."""

    steps: int
    batch_size: int
    """Of all workers together."""
    learning_rate: float
    warmup_steps: int
    decay_steps: int
    weight_decay: float
    ema_decay: float
    final_fraction: float = 0.02
    accumulate: int = 1
    """Parts in which each worker computes its share of a batch, to save memory."""
    resumable: Mapping[str, Any] = field(default_factory=dict)
    """All that the weights depend on; a checkpoint of another one is refused."""
    checkpoint_dir: Path | None = None
    checkpoint_seconds: float = 180.0
    keep_checkpoints: int = 2
    best_by: str | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    betas: tuple[float, float] = (0.9, 0.99)
    measure_utilisation: bool = False


def loop_config(
    training: BaseModel,
    cluster: ClusterConfig,
    *,
    resumable: Mapping[str, Any],
    checkpoint_dir: Path | None,
    best_by: str | None = None,
) -> LoopConfig:
    """Return what a configuration says of its loop; its `decay_steps` null: after the warm-up."""
    known = training.model_dump(include={each.name for each in fields(LoopConfig)})
    if known["decay_steps"] is None:
        known["decay_steps"] = max(0, known["steps"] - known["warmup_steps"])
    return LoopConfig(
        **known,
        checkpoint_seconds=cluster.checkpoint_seconds,
        resumable=resumable,
        checkpoint_dir=checkpoint_dir,
        best_by=best_by,
    )


LossOf = Callable[[nn.Module, Part], dict[str, Tensor]]
"""(model, part) -> named terms, of which 'loss' is minimised. Draws its own images."""


class Loop:
    """AdamW with gradient clipping, warm-up/hold/decay, EMA weights and exact resume."""

    def __init__(
        self, model: nn.Module, loss_of: LossOf, config: LoopConfig, workers: Workers | None = None
    ) -> None:
        """`model` as `workers.place` returned it; the average follows its trainable weights.

        Raises:
            ConfigError: a batch of fewer images than there are parts to compute.
        """
        self.model, self.loss_of, self.config = model, loss_of, config
        self.workers = workers or Workers()
        shares = self.workers.world_size * config.accumulate
        if config.batch_size < shares:
            raise ConfigError(
                f"batch_size {config.batch_size} cannot be shared out over"
                f" {self.workers.world_size} workers x accumulate {config.accumulate}",
                remedy=f"Choose {shares} or more, best a multiple of it",
            )
        self.ema = Ema(inner(model), decay=config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            trainable(model).values(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.step = 0
        self.metrics: dict[str, float] = {}
        """Of a validation after the present step, if there was one; checkpoints note them."""
        self.clock = 0.0
        """Seconds of the run until the last step, the mean of all workers': they agree on it."""
        self._lowest = math.inf
        self._saved = self._started = time.monotonic()
        self._due = False
        self._told: Tensor | None = None
        self._hosts = host_group()
        self._checkpoints = (
            Checkpoints(config.checkpoint_dir, keep=config.keep_checkpoints, best_by=config.best_by)
            if config.checkpoint_dir
            else None
        )

    def resume(self) -> int:
        """Restore the newest checkpoint; return the next step (0 without one)."""
        path = self._checkpoints.newest() if self._checkpoints else None
        return self.restore(path) if path else 0

    def restore(self, path: Path) -> int:
        """Restore the checkpoint `path`; return the next step.

        Raises:
            ModelError: it is damaged, or of another configuration.
        """
        tensors = state_tensors(self.model, self.ema, self.optimizer)
        self.step = load_checkpoint(path, tensors, config=self.config.resumable)
        self.metrics = dict(read_notes(path).metrics)
        self.ema.updates = self.step
        for state in self.optimizer.state.values():
            state["step"].fill_(float(self.step))
        return self.step

    def save(self) -> None:
        """Begin to write a checkpoint that continues with the present step.

        Raises:
            ModelError: the run has no checkpoint folder, or the last one could not be written.
        """
        if self._checkpoints is None:
            raise ModelError("this run has no checkpoint folder", remedy="Set checkpoint_dir")
        notes = Notes(step=self.step, config=self.config.resumable, metrics=self.metrics)
        self._checkpoints.save(state_tensors(self.model, self.ema, self.optimizer), notes)

    def run(
        self,
        *,
        save_now: Callable[[], bool] = lambda: False,
        validate: Callable[[], dict[str, float]] | None = None,
        validate_every: int = 100,
    ) -> Iterator[Progress]:
        """Train to the end, yielding after every step.

        Args:
            save_now: asked after every step on every worker; where any says yes, all save.
            validate: returns metrics of the present weights; called by all workers together.
            validate_every: steps between two of these calls; the last step is always one.

        Raises:
            ModelError: the loss is not finite; the newest checkpoint holds the last good weights.
        """
        first = self.resume()
        self._lowest = self._lowest_so_far()
        step_flops = self._step_flops() if self.config.measure_utilisation else None
        self._started = self._saved = time.monotonic()
        while self.step < self.config.steps:
            progress = self._step(save_now)
            last = self.step == self.config.steps
            validating = validate and (last or self.step % validate_every == 0)
            if last or validating or self._due or self.step % LOOK_STEPS == 0:
                self._check(progress.readings)
            self.metrics, best = {}, False
            if validate and validating:
                best = self._validated(validate())
                progress = replace(progress, readings={**progress.readings, **self.metrics})
            seconds = time.monotonic() - self._started
            yield replace(
                progress,
                first_step=first,
                seconds=seconds,
                utilisation=step_flops and step_flops * (self.step - first) / seconds,
            )
            if self._checkpoints and (self._due or best or last):
                self.save()
                self._saved = time.monotonic()
        self.wait()

    def restore_best(self) -> None:
        """Go back to the checkpoint with the lowest `best_by`; stay here where none was measured.

        Raises:
            ModelError: it is damaged, or a checkpoint could not be written.
        """
        self.wait()
        if self._checkpoints and (path := self._checkpoints.best()):
            self.restore(path)

    def wait(self) -> None:
        """Return when the last checkpoint is on disk."""
        if self._checkpoints:
            self._checkpoints.wait()

    def _validated(self, found: Mapping[str, float]) -> bool:
        """Keep the means of all workers' figures; tell if the one that counts was never lower."""
        figures = torch.tensor([*found.values()]).to(self.workers.device)
        means = mean_over_workers(figures) if found else figures
        self.metrics = dict(zip(found, means.tolist(), strict=True))
        value = self.metrics.get(self.config.best_by or "", math.inf)
        lowest, self._lowest = self._lowest, min(self._lowest, value)
        return value < lowest

    def _lowest_so_far(self) -> float:
        path = self._checkpoints.best() if self._checkpoints else None
        return read_notes(path).metrics[str(self.config.best_by)] if path else math.inf

    def _step(self, save_now: Callable[[], bool]) -> Progress:
        config = self.config
        rate = config.learning_rate * warmup_hold_decay(
            self.step,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            decay_steps=config.decay_steps,
            final_fraction=config.final_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self._accumulate()
        norm = whole(nn.utils.clip_grad_norm_(trainable(self.model).values(), 1.0))
        readings = self._readings(losses | {NORM: norm})
        if self.workers.device == "cpu":
            self._check(readings)
        self._agree(save_now)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(inner(self.model))
        self.step += 1
        return Progress(
            step=self.step,
            steps=config.steps,
            readings=readings,
            learning_rate=rate,
            batch_size=config.batch_size,
        )

    def _readings(self, figures: Mapping[str, Tensor]) -> Readings:
        """Return what a step tells. From the first that is no number on, a GPU tells that one.

        It moves no weight from then on, and nobody has to wait for it in every step to know.
        """
        device, names = self.workers.device, [*figures, STEP]
        at = torch.full((), float(self.step), device=device)
        told = torch.stack([*(each.float() for each in figures.values()), at])
        if device != "cpu":
            loss, norm = names.index("loss"), names.index(NORM)
            if self._told is not None:
                fine = torch.isfinite(self._told[loss] + self._told[norm])
                told = torch.where(fine, told, self._told)
            spoiled = ~torch.isfinite(told[loss] + told[norm])
            self.optimizer.found_inf = spoiled.float()  # type: ignore[attr-defined]
            self._told = told
        return Readings(names, told)

    def _check(self, readings: Mapping[str, float]) -> None:
        """Raise where a step's loss or gradient was no number."""
        loss, norm = readings["loss"], readings[NORM]
        if math.isfinite(norm) and math.isfinite(loss):
            return
        self.wait()
        kept = self._checkpoints.newest() if self._checkpoints else None
        raise ModelError(
            f"step {readings[STEP]:.0f}: loss {loss}, gradient norm {norm}; training stopped before"
            f" they changed the weights, {f'{kept} is kept' if kept else 'before any checkpoint'}",
            remedy="Look at the images of this step, or choose a lower learning_rate and another"
            " output",
        )

    def _accumulate(self) -> dict[str, Tensor]:
        """Compute all parts of this worker; return the losses' means over all workers."""
        config, workers = self.config, self.workers
        todo = list(
            parts(
                self.step,
                rank=workers.rank,
                world_size=workers.world_size,
                accumulate=config.accumulate,
            )
        )
        found = [self._backward(part, last=part is todo[-1]) for part in todo]
        means = [torch.stack([own[name] for own in found]).mean().float() for name in found[0]]
        return dict(zip(found[0], mean_over_workers(torch.stack(means)), strict=True))

    def _agree(self, save_now: Callable[[], bool]) -> None:
        """Decide whether to save, and set the clock: both must be the same on all workers."""
        now = time.monotonic()
        waited = now - self._saved > self.config.checkpoint_seconds
        due = save_now() or (self.workers.first and waited)
        shared = torch.tensor([float(due), now - self._started])
        due_anywhere, self.clock = mean_over_workers(shared, group=self._hosts).tolist()
        self._due = due_anywhere > 0

    def _backward(self, part: Part, *, last: bool) -> dict[str, Tensor]:
        """Add the gradients of `part`; return its losses as they count in the whole batch's."""
        weight = part.weight(self.config.batch_size)
        with gradients_kept(self.model, last=last):
            with autocast(self.config.precision, self.workers.device):
                losses = self.loss_of(self.model, part)
            torch.autograd.backward(losses["loss"] * (weight / self.config.accumulate))
        return {name: value.detach() * weight for name, value in losses.items()}

    def _step_flops(self) -> float:
        """Return the operations of a step, in units of what this machine's matmul does in 1 s."""
        one = Part(step=self.step, of=self.config.batch_size)
        operations = count_flops(lambda: self._backward(one, last=True))
        self.optimizer.zero_grad(set_to_none=True)
        device = self.workers.device
        rate = matmul_rate(device, bf16=uses_bfloat16(self.config.precision, device))
        share = self.config.batch_size / self.workers.world_size
        return operations * self.config.accumulate * share / rate
