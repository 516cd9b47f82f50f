"""The one driver of a training: real images in, a generator folder out, here or on Ray Train.

    images + split -> plan.json -> first stage, once -> every target -> generator folder

A target is one class, one cluster, or everything. Every stage leaves its result in the output
folder and is skipped when it is there: a killed training goes on where it was. What a method does
differently stands in its own module, see `factory.finetune.method`.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from factory.atomic import write_bytes
from factory.device import own_device
from factory.errors import DataError, ModelError
from factory.finetune.checkpoint import check_newest, checkpoints
from factory.finetune.cluster import on_gpus
from factory.finetune.data import Material, load_material
from factory.finetune.loop import Loop, loop_config
from factory.finetune.memory import told_needs
from factory.finetune.meter import Turn
from factory.finetune.method import Follow, Task, Training
from factory.finetune.plan import Plan, read_plan
from factory.finetune.train import (
    follow,
    follow_here,
    this_worker,
    train_on_ray,
    train_side_by_side,
    turn_of,
)
from factory.finetune.validation import Validation, distance_to
from factory.finetune.workers import Workers, inner
from factory.measure.rings import RingBank
from factory.measure.sheets import below_each_other
from factory.method import find_method
from factory.models.card import validation_figures
from factory.models.generator import EVERY_CLASS, RINGS_FILE, Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.terminal import Tell

WEIGHTS, RESULT, SHEET = "weights.safetensors", "result.json", "samples.png"
CHECKPOINTS = "checkpoints"
AT_ONCE = 512
"""Images whose marks are made together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Which step of a target is exported, its figures, and its grid of samples if one was drawn."""

    step: int
    metrics: Mapping[str, float]
    grid: Path | None = None

    def save(self, folder: Path) -> None:
        """Write `folder/result.json`."""
        write_bytes(folder / RESULT, _RESULT.dump_json(self, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """Return what `save` wrote."""
        return _RESULT.validate_json((folder / RESULT).read_bytes())


_RESULT = TypeAdapter(Result)


def training_of(plan_or_config: Any) -> Training:
    """Return how the method of a plan or of a configuration is trained."""
    config = getattr(plan_or_config, "config", plan_or_config)
    training: Training = find_method(config.method).training(config)
    return training


def prepare(
    config: Any,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    stages: Path | None = None,
    tell: Tell = lambda _line: None,
) -> Plan:
    """Choose the images, write them where every worker finds them, and say what will be trained.

    Args:
        config: of any method.
        dataset: the real images.
        split: of them.
        output: folder of the training.
        stages: where images and first stages are kept; several trainings may share it. None: in
            `output`.
        tell: hears what is left out.

    Raises:
        DataError: a split of another dataset or one that leaks, a class without images, no masks.
        ConfigError: what does not fit the images, the base or itself.
        ModelError: a base that cannot be loaded, or `output` holds a run of another configuration.
    """
    training = training_of(config)
    plan = training.prepare(config, dataset, split, output, stages=stages, tell=tell)
    for target in plan.targets:
        depends_on = training.depends_on(plan, target)
        for folder in (plan.folder_of(target) / CHECKPOINTS, _before(plan, target)):
            if depends_on is not None:
                check_newest(folder, config=depends_on)
    _adopt(plan)
    plan.save()
    return plan


def needs_of_plan(plan: Plan) -> str:
    """Return what every worker needs in memory, as a line to show before it begins."""
    sketch = training_of(plan).sketch(plan.config, load_material(plan.learn))
    return told_needs(plan.config, sketch)


def load_plan(output: Path) -> Plan:
    """Return the plan in `output`."""
    stored = read_plan(output)
    kind = find_method(stored["method"]).configuration(stored["config"])
    return Plan(**stored | {"config": kind.model_validate(stored["config"])})


def finetune_here(plan: Plan, *, tell: Tell) -> Generator:
    """Train all targets in this process, one after another, and export.

    Raises:
        ConfigError: a GPU is asked for and this machine has none.
    """
    device = own_device() if on_gpus(plan.config.cluster) else "cpu"
    _first_stage(plan, device, lambda line: tell(f"autoencoder: {line}"))
    for number, target in enumerate(plan.targets):
        tell(f"{plan.config.name}: {target}")
        later = [t for t in plan.targets[number + 1 :] if not (plan.folder_of(t) / RESULT).exists()]
        turn = Turn(name=target, number=number + 1, of=len(plan.targets), later=len(later))
        train(plan, target, Workers(device=device), partial(follow_here, tell=tell, turn=turn))
    return training_of(plan).export(plan)


def finetune_on_ray(plan: Plan) -> Generator:
    """Train the first stage on one worker, all targets side by side as far as there is room.

    Raises:
        ConfigError: GPUs are asked for and the cluster has none.
        ClusterError: a stage failed more often than it may; the others are finished.
    """
    config = plan.config
    if training_of(plan).trains_first(plan) or on_gpus(config.cluster):
        train_on_ray(
            _first_on_worker,
            {"output": str(plan.output)},
            name=f"{config.name}-autoencoder",
            cluster=config.cluster.model_copy(update={"workers": 1, "sharding": "none"}),
            storage=plan.output,
        )
    else:
        _first_stage(plan, "cpu", lambda _line: None)
    train_side_by_side(
        _on_worker, plan.targets, name=config.name, cluster=config.cluster, output=plan.output
    )
    return training_of(plan).export(plan)


def _first_stage(plan: Plan, device: str, tell: Tell) -> None:
    training_of(plan).first_stage(plan, device=device, follow=partial(follow_here, tell=tell))


def _first_on_worker(settings: dict[str, str]) -> None:
    plan = load_plan(Path(settings["output"]))
    log_dir = plan.output / "tensorboard" / "autoencoder"
    training_of(plan).first_stage(
        plan, device=this_worker("none").device, follow=partial(follow, log_dir=log_dir)
    )


def _on_worker(settings: dict[str, str]) -> None:
    plan, target = load_plan(Path(settings["output"])), settings["target"]
    log_dir, turn = plan.output / "tensorboard" / target, turn_of(settings, plan.targets)
    workers = this_worker(plan.config.cluster.sharding)
    train(plan, target, workers, partial(follow, log_dir=log_dir, turn=turn))


def train(plan: Plan, target: str, workers: Workers, run: Follow) -> None:
    """Train one target to its end and leave its weights in the target's folder."""
    settings, folder = plan.config.validation, plan.folder_of(target)
    task = training_of(plan).task(plan, target, workers)
    loop = loop_of(task, plan.config, folder / CHECKPOINTS)
    validation = Validation(
        loop=loop,
        settings=settings,
        losses=partial(task.validate, settings.max_images),
        sample=task.sample,
        class_names=task.rows,
        folder=folder / "samples",
        distance=distance_to(task.held_out, task.rows, settings, device=workers.device),
        gates=plan.gates.thresholds,
    )
    run(loop, validate=validation, validate_every=settings.every_steps)
    if settings.best_by is not None:
        loop.restore_best()
    grid = validation.finish()
    with averaged(loop):  # on every worker: shards are gathered
        tensors = task.tensors()
    if workers.first:
        write_bytes(folder / WEIGHTS, save(tensors, metadata={"step": str(loop.step)}))
        Result(step=loop.step, metrics=loop.metrics, grid=grid).save(folder)


def export_newest(plan: Plan) -> Generator:
    """Write the generator of the newest checkpoints, also while another process trains on.

    Raises:
        ModelError: a target has no checkpoint yet.
    """
    for target in plan.targets:
        folder = plan.folder_of(target)
        if not checkpoints(folder / CHECKPOINTS):
            raise ModelError(f"{folder} holds no checkpoint", remedy="Train first")
        task = training_of(plan).task(plan, target, Workers())
        loop = loop_of(task, plan.config, folder / CHECKPOINTS)
        loop.resume()
        with averaged(loop):
            write_bytes(folder / WEIGHTS, save(task.tensors(), metadata={"step": str(loop.step)}))
        Result(step=loop.step, metrics=loop.metrics).save(folder)
    return training_of(plan).export(plan)


def loop_of(task: Task, config: Any, checkpoint_dir: Path | None) -> Loop:
    """Return the resumable loop that trains a task."""
    return Loop(
        task.model,
        lambda _module, part: task.loss(part),
        loop_config(
            config.training,
            config.cluster,
            resumable=task.depends_on,
            checkpoint_dir=checkpoint_dir,
            best_by=config.validation.best_by,
        ),
        task.workers,
    )


def averaged(loop: Loop) -> Any:
    """Return the context of the weights that are exported: the average, where one is kept."""
    return loop.ema.applied(inner(loop.model)) if loop.config.ema_decay else nullcontext()


def finished(plan: Plan, target: str = EVERY_CLASS) -> tuple[Result, dict[str, Tensor]]:
    """Return the result of a finished target and its weights."""
    folder = plan.folder_of(target)
    return Result.load(folder), load_file(folder / WEIGHTS)


def manifest_of(
    plan: Plan, part: Material, results: Mapping[str, Result], **own: Any
) -> dict[str, Any]:
    """Return what every generator says of how it was made; `own` is what its method adds.

    Args:
        plan: of the training.
        part: the images that the generator learnt from.
        results: of the targets that are in it.
        own: keys of the method, which win.
    """
    return {
        "name": plan.config.name,
        "method": plan.method,
        "size_px": part.images.shape[1],
        "class_names": list(part.class_names),
        "split_digest": part.split_digest,
        "dataset_fingerprint": part.dataset_fingerprint,
        "config": plan.config.model_dump(mode="json"),
        "images_trained": len(part),
        "gates": plan.gates.model_dump(mode="json"),
        "field": plan.field.model_dump(mode="json"),
        "steps_trained": max(result.step for result in results.values()),
        "validation": {
            target: {"step": result.step, **result.metrics} for target, result in results.items()
        },
        **own,
    }


def sheet_of(results: Mapping[str, Result]) -> dict[str, bytes]:
    """Return the pictures of a generator folder: the grids of its targets below each other."""
    grids = [result.grid for result in results.values() if result.grid]
    return {SHEET: below_each_other(grids)} if grids else {}


def marks_of(part: Material) -> dict[str, bytes]:
    """Return the file by which copies of a generator's images are known: for the copy gate.

    Empty where they are too few, or too alike, to tell how near two of them come.
    """
    images = part.images.numpy()
    chunks = (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))
    try:
        return {RINGS_FILE: RingBank.of(chunks, part.split_digest).to_bytes()}
    except DataError:
        return {}


def figures_of(manifest: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the figures of a card: what was measured when the weights were exported."""
    return validation_figures(manifest["validation"], [*pictures])


def _before(plan: Plan, target: str) -> Path:
    """Return where code before 0.2 left the checkpoints of a target."""
    if plan.method != "pairs":
        return plan.output / "denoiser-checkpoints"
    place = "" if target == EVERY_CLASS else f"cluster-{int(target):02d}"
    return plan.output / place / CHECKPOINTS


def _adopt(plan: Plan) -> None:
    """Move the checkpoints of older code to where they are looked for now."""
    for target in plan.targets:
        before, now = _before(plan, target), plan.folder_of(target) / CHECKPOINTS
        if before.is_dir() and not now.exists():
            now.parent.mkdir(parents=True, exist_ok=True)
            before.rename(now)
