"""A whole fine-tuning: real images in, a generator folder out, here or on Ray Train.

    images + split -> latents, once -> a training for every target -> LoRAs -> generator folder

A target is one class, or all of them. Targets train side by side where the cluster has room.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from factory.atomic import write_bytes
from factory.errors import ConfigError, DataError
from factory.evaluate.features import load_feature_space
from factory.finetune.adapt import Adaptation, adapt, adaptation_loop, trained_tensors
from factory.finetune.config import FinetuneConfig
from factory.finetune.finish import WEIGHTS, Result, export
from factory.finetune.loop import Loop
from factory.finetune.material import Material, choose_images, load_material, make_material
from factory.finetune.plan import Plan
from factory.finetune.samples import text_samples
from factory.finetune.train import follow, follow_here, this_worker, train_on_ray
from factory.finetune.validation import FEWEST, Validation, distance_to, keep_features
from factory.finetune.workers import Workers
from factory.models.expert_file import load_expert
from factory.models.generator import EVERY_CLASS, Generator, find_generator
from factory.models.lora_file import LoraNotes, save_lora
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset
from factory.sample.engine import load_pipeline


def prepare(config: FinetuneConfig, dataset: RealDataset, split: Split, output: Path) -> Plan:
    """Choose the images, encode them once, and write down what will be trained.

    Raises:
        DataError: a split of another dataset, a class without images, fewer than `n_shot`.
        ConfigError: prompts for classes that the dataset has not; an aligned run without expert.
        ModelError: the base cannot be loaded.
    """
    check_dataset(split, dataset.fingerprint)
    if unknown := sorted({*config.classes, *config.only} - set(dataset.labels)):
        raise ConfigError(
            f"class {unknown[0]!r} is not in the dataset",
            remedy=f"Its classes are {', '.join(sorted(set(dataset.labels)))}",
        )
    if config.separate and config.train == "full":
        raise ConfigError(
            "separate: true trains a LoRA for every class, and train is 'full'",
            remedy="Set train: lora, or separate: false",
        )
    if config.alignment.weight and config.expert is None:
        raise ConfigError(
            f"alignment.weight {config.alignment.weight} needs an expert",
            remedy="Set expert to the folder of one, or alignment.weight to 0",
        )
    base = find_generator(config.base, revision=config.revision)
    autoencoder = load_pipeline(base).vae
    ids = choose_images(dataset, split, config)

    def encoded(chosen: Sequence[str]) -> Path:
        return make_material(
            dataset,
            chosen,
            split,
            generator=base,
            autoencoder=autoencoder,
            size_px=config.size_px or base.size_px,
            turns=config.turns,
            folder=output / "latents",
        )

    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    classes = tuple(sorted({labels[i] for i in ids}))
    held_out = [i for i in split.val if labels[i] in classes]
    _check_validation(config, Counter(labels[i] for i in held_out), classes)
    plan = Plan(
        config=config,
        base_model_id=base.model_id,
        material=encoded(ids),
        validation=encoded(held_out) if held_out else None,
        targets=classes if config.separate else (EVERY_CLASS,),
        output=output,
    )
    if config.validation.features is not None and plan.validation is not None:
        keep_features(
            dataset,
            held_out,
            load_feature_space(config.validation.features),
            size_px=config.size_px or base.size_px,
            folder=plan.validation,
        )
    plan.save()
    return plan


def _check_validation(
    config: FinetuneConfig, held_out: Counter[str], classes: Sequence[str]
) -> None:
    """Raise unless every target has the images of the val part that its best checkpoint needs."""
    needed = {None: 0, "val_loss": 1, "val_kid": FEWEST}[config.validation.best_by]
    for names in [[name] for name in classes] if config.separate else [classes]:
        found = sum(held_out[name] for name in names)
        if found < needed:
            raise DataError(
                f"validation.best_by {config.validation.best_by} needs {needed} images in the val"
                f" part, and {', '.join(names)} has {found}",
                remedy="Hold out more, or set validation.best_by to null",
            )


def finetune_here(plan: Plan, *, tell: Callable[[str], object]) -> Generator:
    """Train all targets in this process, one after another, and export."""
    for target in plan.targets:
        tell(f"{plan.config.name}: {target}")
        _train(
            plan,
            target,
            Workers(device="cuda" if torch.cuda.is_available() else "cpu"),
            lambda loop, **how: follow_here(loop, tell=tell, **how),
        )
    return export(plan)


def finetune_on_ray(plan: Plan) -> Generator:
    """Train all targets on the cluster, side by side as far as it has room, and export.

    Raises:
        ClusterError: a target failed more often than it may; the others are finished.
    """
    import ray

    def one(target: str) -> None:
        train_on_ray(
            _on_worker,
            {"output": str(plan.output), "target": target},
            name=f"{plan.config.name}-{target}",
            cluster=plan.config.cluster,
            storage=plan.output,
        )

    waits = ray.remote(num_cpus=0)(one)  # the workers that it starts reserve what they need
    started = [waits.remote(target) for target in plan.targets]
    ray.wait(started, num_returns=len(started))
    ray.get(started)
    return export(plan)


def _on_worker(settings: dict[str, str]) -> None:
    plan = Plan.load(Path(settings["output"]))
    log_dir = plan.output / "tensorboard" / settings["target"]
    _train(
        plan,
        settings["target"],
        this_worker(plan.config.cluster.sharding),
        lambda loop, **how: follow(loop, log_dir=log_dir, **how),
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
    )


def _adaptation(plan: Plan, workers: Workers) -> Adaptation:
    config = plan.config
    base = find_generator(config.base, revision=config.revision)
    if base.model_id != plan.base_model_id:
        raise ConfigError(
            f"base {config.base} is {base.model_id} here, and was {plan.base_model_id} in the plan",
            remedy="Put the same files on every machine",
        )
    expert = None
    if config.alignment.weight and config.expert is not None:
        expert = load_expert(config.expert)[0]
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
