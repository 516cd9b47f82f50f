"""The Ray Train shell around any training: 1..n workers, restarts, preemption, progress."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ConfigDict, Field

from factory.errors import ClusterError, ConfigError
from factory.finetune.loop import Loop
from factory.finetune.meter import Progress, describe
from factory.finetune.workers import Sharding, Workers

REPORT_STEPS = 50


class ClusterConfig(BaseModel):
    """Where and on how many workers a training runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | tuple[int, int] = 1
    """A number, or (least, most): the group grows and shrinks with the cluster."""
    sharding: Sharding = "none"
    use_gpu: bool = False
    cpus_per_worker: float = Field(1, gt=0)
    max_failures: int = Field(3, ge=0)
    checkpoint_seconds: float = Field(180, gt=0)
    """Between two checkpoints: what a group that dies repeats at most."""

    @property
    def most(self) -> int:
        """The largest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def train_on_ray(
    work: Callable[[dict[str, str]], None],
    settings: dict[str, str],
    *,
    name: str,
    cluster: ClusterConfig,
    storage: Path,
) -> None:
    """Run `work(settings)` on every worker of a group; its checkpoints must lie in shared storage.

    A worker that dies restarts its group, whose loops go on from their newest checkpoint.

    Raises:
        ConfigError: GPUs are asked for and the cluster has none.
        ClusterError: the group failed more often than it may.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if cluster.use_gpu and not ray.cluster_resources().get("GPU"):
        raise ConfigError(
            "use_gpu: true, and this Ray cluster has 0 GPUs",
            remedy="Set use_gpu: false, or join a cluster with GPUs",
        )
    trainer = TorchTrainer(
        work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage / "ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    for attempt in range(cluster.max_failures + 1):
        try:
            trainer.fit()
            return
        except Exception as error:  # Ray Train has no public base class of its failures
            if _died_while_starting(error) and attempt < cluster.max_failures:
                continue
            raise ClusterError(
                f"training {name} failed ({error})",
                remedy=f"Mend the cause and start it again; the checkpoints in {storage} are kept",
            ) from error


def _died_while_starting(error: Exception) -> bool:
    """Whether a worker died just when its group began: Ray 2.60 counts that as its own failure."""
    from ray.exceptions import RayActorError
    from ray.train import ControllerError

    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, RayActorError
    )


def this_worker(sharding: Sharding) -> Workers:
    """Return this process among its peers; to be called on a worker of a group."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    return Workers(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        sharding=sharding if context.get_world_size() > 1 or sharding == "fsdp" else "none",
        device=str(get_device()),
    )


def follow(
    loop: Loop,
    *,
    log_dir: Path | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = REPORT_STEPS,
) -> None:
    """Run `loop` on a worker: metrics to Ray, TensorBoard and the log; save when Ray says hurry."""
    import ray.train

    hurried = False

    def hurry() -> bool:
        """Whether a node of the group is about to go; asked of Ray now and then, acted on once."""
        nonlocal hurried
        if hurried or loop.step % REPORT_STEPS:
            return False
        hurried = ray.train.get_preemption_info() is not None
        return hurried

    write = board(log_dir) if loop.workers.first and log_dir else None
    for progress in loop.run(save_now=hurry, validate=validate, validate_every=validate_every):
        if not worth_telling(progress, validate_every):
            continue
        ray.train.report(numbers(progress))
        if loop.workers.first:
            click.echo(describe(progress))
        if write:
            write(progress.step, numbers(progress))


def follow_here(
    loop: Loop,
    *,
    tell: Callable[[str], object],
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = REPORT_STEPS,
) -> None:
    """Run `loop` in this process, without Ray."""
    for progress in loop.run(validate=validate, validate_every=validate_every):
        if worth_telling(progress, validate_every):
            tell(describe(progress))


def worth_telling(progress: Progress, validate_every: int = REPORT_STEPS) -> bool:
    """Whether a step is reported: every 50th, those that were validated, and the last."""
    step = progress.step
    return step % REPORT_STEPS == 0 or step % validate_every == 0 or step == progress.steps


def numbers(progress: Progress) -> dict[str, float]:
    """Return what there is to plot of a step."""
    shown: dict[str, float] = {
        "step": progress.step,
        "images_per_second": progress.images_per_second,
        "learning_rate": progress.learning_rate,
        "gradient_norm": progress.gradient_norm,
        **progress.losses,
    }
    if progress.utilisation is not None:
        shown["utilisation"] = progress.utilisation
    return shown


def board(log_dir: Path) -> Callable[[int, dict[str, Any]], None]:
    """Return a function that writes scalars of a step for TensorBoard."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(log_dir))

    def write(step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write
