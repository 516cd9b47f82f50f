"""The Ray Train shell around any training: 1..n workers, restarts, preemption, progress."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.errors import ClusterError, FactoryError
from factory.finetune.cluster import ClusterConfig, Sharding, on_gpus
from factory.finetune.loop import Loop
from factory.finetune.meter import Progress, Turn, describe
from factory.finetune.workers import Workers
from factory.terminal import tell_driver

REPORT_STEPS, EARLY_STEPS = 50, 5
NOTICE_SECONDS = 5.0
"""Between two questions whether a node is about to go; Ray looks as often itself."""
ROOM_SECONDS = 10.0
"""Between two looks whether the cluster has grown while targets wait for room."""


def train_on_ray(
    work: Callable[[dict[str, str]], None],
    settings: dict[str, str],
    *,
    name: str,
    cluster: ClusterConfig,
    storage: Path,
) -> None:
    """Run `work(settings)` on every worker of a group; its checkpoints must lie in shared storage.

    A worker that dies restarts its group, whose loops go on from their newest checkpoint. An error
    that the user must mend is raised at once: it would come again.

    Raises:
        ConfigError: GPUs are asked for and the cluster has none.
        ClusterError: the group failed more often than it may.
        FactoryError: what a worker raised.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=on_gpus(cluster),
            resources_per_worker={"CPU": cluster.cpus_per_worker},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage / "ray"),
        ),
    )
    for attempt in range(cluster.max_failures + 1):  # Ray's own count spares no error of ours
        try:
            trainer.fit()
            return
        except Exception as error:  # Ray Train has no public base class of its failures
            if told := told_by_worker(error):
                raise told from None
            if attempt < cluster.max_failures:
                continue
            raise ClusterError(
                f"training {name} failed {attempt + 1} times, the last time with"
                f" {_last_line(error)}",
                remedy=f"Mend the cause and start it again; the checkpoints in {storage} are kept",
            ) from error


def train_side_by_side(
    work: Callable[[dict[str, str]], None],
    targets: Sequence[str],
    *,
    name: str,
    cluster: ClusterConfig,
    output: Path,
) -> None:
    """Run `work({"output": ..., "target": ..., ...})` on a group of workers for every target.

    As many groups at a time as the cluster has room for, since each brings processes of Ray Train
    beside its workers; see `train_on_ray` and `turn_of`. Where there are several machines one group
    more waits: what makes an autoscaler add another.

    Raises:
        FactoryError: what the first of them raised, when all others have ended.
    """
    import ray

    cluster = cluster.model_copy(update={"use_gpu": on_gpus(cluster)})

    def room() -> int:
        return groups_abreast(cluster, ray.cluster_resources())

    abreast = str(room())

    def one(target: str) -> None:
        train_on_ray(
            work,
            {"output": str(output), "target": target, "abreast": abreast},
            name=f"{name}-{target}",
            cluster=cluster,
            storage=output,
        )

    waits = ray.remote(num_cpus=0)(one)  # the workers that it starts reserve what they need
    started: list[Any] = []
    running: list[Any] = []
    for target in targets:
        while running and len(running) >= room() + (len(ray.nodes()) > 1):
            running = ray.wait(running, timeout=ROOM_SECONDS)[1]
        running.append(waits.remote(target))
        started.append(running[-1])
    ray.wait(started, num_returns=len(started))
    try:
        ray.get(started)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FactoryError):
            raise error.cause from None  # without Ray's copy of its traceback in the message
        raise


def groups_abreast(cluster: ClusterConfig, resources: Mapping[str, float]) -> int:
    """Return how many groups of workers fit into these resources at a time, 1 or more."""
    fit = [int(resources.get("CPU", 1) / (cluster.least * cluster.cpus_per_worker))]
    if cluster.use_gpu:
        fit.append(int(resources.get("GPU", 1) / cluster.least))
    return max(1, min(fit))


def turn_of(settings: Mapping[str, str], targets: Sequence[str]) -> Turn:
    """Return the place of the target of `settings`, on a worker, among all targets."""
    number, abreast = targets.index(settings["target"]), int(settings["abreast"])
    rounds = -(-len(targets) // abreast)
    return Turn(
        name=settings["target"],
        number=number + 1,
        of=len(targets),
        later=rounds - 1 - number // abreast,
    )


def told_by_worker(error: Exception) -> FactoryError | None:
    """Return the error of ours that ended a group, if one did."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, FactoryError):
            return cause
    return None


def _last_line(error: Exception) -> str:
    """Return what went wrong without the tracebacks of all workers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


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
    turn: Turn | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = REPORT_STEPS,
) -> None:
    """Run `loop` on a worker: metrics to Ray, TensorBoard and the log; save when Ray says hurry."""
    import ray.train

    asked, hurried = -NOTICE_SECONDS, False

    def hurry() -> bool:
        """Whether a node of the group is about to go; asked of Ray now and then, acted on once.

        By the clock that the workers share: all of them must ask, or none.
        """
        nonlocal asked, hurried
        if hurried or loop.clock - asked < NOTICE_SECONDS:
            return False
        asked, hurried = loop.clock, ray.train.get_preemption_info() is not None
        return hurried

    write = board(log_dir) if loop.workers.first and log_dir else None
    for progress in loop.run(save_now=hurry, validate=validate, validate_every=validate_every):
        if not worth_telling(progress, validate_every):
            continue
        ray.train.report(numbers(progress))
        if loop.workers.first:
            tell_driver(describe(progress, turn))
        if write:
            write(progress.step, numbers(progress))


def follow_here(
    loop: Loop,
    *,
    tell: Callable[[str], object],
    turn: Turn | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = REPORT_STEPS,
) -> None:
    """Run `loop` in this process, without Ray."""
    for progress in loop.run(validate=validate, validate_every=validate_every):
        if worth_telling(progress, validate_every):
            tell(describe(progress, turn))


def worth_telling(progress: Progress, validate_every: int = REPORT_STEPS) -> bool:
    """Whether a step is reported: every 50th, those that were validated, and the last.

    So is an early one: a slow training says at once how long it takes.
    """
    step = progress.step
    early = step - progress.first_step == EARLY_STEPS
    return early or step % REPORT_STEPS == 0 or step % validate_every == 0 or step == progress.steps


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
