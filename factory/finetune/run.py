"""A whole fine-tuning: real images in, a generator folder out, here or on Ray Train.

    images + split -> latents, once -> a training for every target -> LoRAs -> generator folder

A target is one class, or all of them. Targets train side by side where the cluster has room.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save

from factory.atomic import write_bytes
from factory.errors import ConfigError, DataError
from factory.finetune.adapt import Adaptation, adapt, adaptation_loop, trained_tensors
from factory.finetune.finish import RESULT, WEIGHTS, Result, export
from factory.finetune.loop import Loop
from factory.finetune.material import Material, load_material
from factory.finetune.meter import Turn
from factory.finetune.plan import Plan
from factory.finetune.samples import text_samples
from factory.finetune.text_prepare import expert_of
from factory.finetune.text_prepare import prepare as prepare
from factory.finetune.train import (
    follow,
    follow_here,
    this_worker,
    train_side_by_side,
    turn_of,
)
from factory.finetune.validation import Validation, distance_to
from factory.finetune.workers import Workers
from factory.measure.features import load_feature_space
from factory.models.generator import EVERY_CLASS, Generator, find_generator
from factory.models.lora import LoraNotes, save_lora
from factory.models.pipeline import load_pipeline


def finetune_here(plan: Plan, *, tell: Callable[[str], object]) -> Generator:
    """Train all targets in this process, one after another, and export."""
    for number, target in enumerate(plan.targets):
        tell(f"{plan.config.name}: {target}")
        later = [t for t in plan.targets[number + 1 :] if not (plan.folder_of(t) / RESULT).exists()]
        turn = Turn(name=target, number=number + 1, of=len(plan.targets), later=len(later))
        _train(
            plan,
            target,
            Workers(device="cuda" if torch.cuda.is_available() else "cpu"),
            partial(follow_here, tell=tell, turn=turn),
        )
    return export(plan)


def finetune_on_ray(plan: Plan) -> Generator:
    """Train all targets on the cluster, side by side as far as it has room, and export.

    Raises:
        ClusterError: a target failed more often than it may; the others are finished.
    """
    config = plan.config
    train_side_by_side(
        _on_worker, plan.targets, name=config.name, cluster=config.cluster, output=plan.output
    )
    return export(plan)


def _on_worker(settings: dict[str, str]) -> None:
    plan = Plan.load(Path(settings["output"]))
    log_dir = plan.output / "tensorboard" / settings["target"]
    _train(
        plan,
        settings["target"],
        this_worker(plan.config.cluster.sharding),
        partial(follow, log_dir=log_dir, turn=turn_of(settings, plan.targets)),
    )


def _train(plan: Plan, target: str, workers: Workers, run: Callable[..., None]) -> None:
    """Train one target to its end and leave its weights in the target's folder."""
    material = _part(load_material(plan.material), target)
    adaptation = _adaptation(plan, workers)
    loop = adaptation_loop(
        adaptation,
        material,
        base_model_id=plan.base_model_id,
        checkpoints=plan.folder_of(target) / "checkpoints",
    )
    validation = _validation(plan, target, adaptation, loop)
    run(loop, validate=validation, validate_every=plan.config.validation.every_steps)
    if plan.config.validation.best_by is not None:
        loop.restore_best()
    grid = validation.finish()
    tensors = trained_tensors(adaptation, loop)  # every worker: shards are gathered
    if not workers.first:
        return
    Result(step=loop.step, metrics=loop.metrics, grid=grid).save(plan.folder_of(target))
    if plan.config.train == "lora":
        save_lora(plan.folder_of(target), tensors, _notes(plan, material))
    else:
        write_bytes(plan.folder_of(target) / WEIGHTS, save(tensors))


def _validation(plan: Plan, target: str, adaptation: Adaptation, loop: Loop) -> Validation:
    settings = plan.config.validation
    names = tuple(sorted(set(_part(load_material(plan.material), target).labels)))
    distance, held_out = None, None
    if plan.validation is not None:
        held_out = _part(load_material(plan.validation), target)
        if settings.features is not None:
            space = load_feature_space(settings.features, device=adaptation.workers.device)
            most = settings.max_images
            distance = distance_to(plan.validation, names, space, max_images=most)

    def losses() -> dict[str, float]:
        if held_out is None or not held_out.ids:
            return {}
        return adaptation.validate(held_out, max_images=settings.max_images)

    base = find_generator(plan.config.base, revision=plan.config.revision)
    return Validation(
        loop=loop,
        settings=settings,
        losses=losses,
        sample=text_samples(adaptation, plan.config.size_px or base.size_px),
        class_names=names,
        folder=plan.folder_of(target) / "samples",
        distance=distance,
        gates=plan.gates.thresholds,
    )


def _adaptation(plan: Plan, workers: Workers) -> Adaptation:
    config = plan.config
    base = find_generator(config.base, revision=config.revision)
    if base.model_id != plan.base_model_id:
        raise ConfigError(
            f"base {config.base} is {base.model_id} here, and was {plan.base_model_id} in the plan",
            remedy="Put the same files on every machine",
        )
    expert = expert_of(config)
    classes = tuple(sorted(set(load_material(plan.material).labels)))
    return adapt(load_pipeline(base), config, classes, expert=expert, workers=workers)


def _part(material: Material, target: str) -> Material:
    part = material if target == EVERY_CLASS else material.of_class(target)
    if not part.ids and target != EVERY_CLASS:
        return part
    if not part.ids:
        raise DataError("no image to learn from", remedy="Choose another split or other classes")
    return part


def _notes(plan: Plan, material: Material) -> LoraNotes:
    return LoraNotes(
        base_model_id=plan.base_model_id,
        dataset_fingerprint=material.dataset_fingerprint,
        split_digest=material.split_digest,
        ids_digest=material.ids_digest,
        class_names=tuple(sorted(set(material.labels))),
        settings=plan.config.lora,
    )
