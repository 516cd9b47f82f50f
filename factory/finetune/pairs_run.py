"""A whole training of pairs: real pairs in, a generator folder out, here or on Ray Train.

    images + masks + split (+ clusters) -> prepared -> a training for every target -> generators

A target is all pairs, or one cluster; clusters train side by side where the machines have room,
from nothing or from one base, all their weights or a LoRA.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from factory.atomic import write_bytes, write_text
from factory.digest import digest
from factory.errors import DataError
from factory.finetune.finish import RESULT, SHEET, Result
from factory.finetune.first_stage import Follow
from factory.finetune.loop import Loop
from factory.finetune.material import measured
from factory.finetune.meter import Turn
from factory.finetune.pairs import PairTask, build_task, pairs_loop
from factory.finetune.pairs_base import load_base, with_base
from factory.finetune.pairs_config import PairsConfig
from factory.finetune.pairs_data import PairSet, load_pairs, prepare_held_out, prepare_pairs
from factory.finetune.samples import pair_samples
from factory.finetune.train import (
    follow,
    follow_here,
    this_worker,
    train_side_by_side,
    turn_of,
)
from factory.finetune.validation import Validation
from factory.finetune.workers import Workers, inner
from factory.models.card import pair_card, validation_figures
from factory.models.export import write_generator
from factory.models.generator import CLUSTERS, Generator, find_generator, open_generator
from factory.models.lora import folded_state
from factory.models.pipeline import load_pipeline
from factory.models.shards import whole
from factory.real.dataset import RealDataset
from factory.real.field import Shown
from factory.real.splits import Split

EVERY = "all"
"""The target that learns from all pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsPlan:
    """Everything a worker needs to know; `plan.json` in the output folder."""

    config: PairsConfig
    material: Path
    held_out: Path | None
    """Pairs of the val part; None: there are none that tell anything."""
    field: Shown
    """What the pairs to learn from show."""
    targets: tuple[str, ...]
    output: Path

    def folder(self, target: str) -> Path:
        """Return where a target's checkpoints, weights and generator lie."""
        return self.output if target == EVERY else self.output / f"cluster-{int(target):02d}"


def prepare(config: PairsConfig, dataset: RealDataset, split: Split, output: Path) -> PairsPlan:
    """Read the train part once, and write down what will be trained.

    Raises:
        ConfigError: see `with_base`.
        DataError: see `with_base` and `prepare_pairs`, or a cluster that is not there.
        ModelError: the base's or the autoencoder's generator cannot be loaded.
    """
    config = with_base(config, dataset, split)
    made_of = config.model_dump(
        mode="json", include={"size_px", "mask_values", "autoencoder", "only"}
    )
    clusters = config.clusters.read_bytes() if config.clusters else b""
    name = digest([dataset.fingerprint, split.digest, made_of, digest(clusters.hex())])
    material, vae = output / f"pairs-{name}", _autoencoder(config)
    if not (material / "pairs.json").exists():
        prepare_pairs(config, dataset, split, material, autoencoder=vae)
    pairs = load_pairs(material)
    if config.condition is None:
        several = len(set(pairs.labels)) > 1 and not config.per_cluster
        config = config.model_copy(update={"condition": "class" if several else "none"})
    held_out: Path | None = None
    if config.condition != "cluster" and not config.per_cluster:  # only the train part has clusters
        folder = output / f"pairs-{name}-val"
        if (folder / "pairs.json").exists() or prepare_held_out(
            config, dataset, split, folder, like=pairs, autoencoder=vae
        ):
            held_out = folder
    if config.validation.best_by is not None and held_out is None:
        raise DataError(
            f"validation.best_by {config.validation.best_by} needs pairs of the val part, and there"
            " are none of these classes and mask values",
            remedy="Hold out more, or set validation.best_by to null",
        )
    numbers = config.only_clusters or tuple(sorted(set(pairs.clusters)))
    for number in config.only_clusters:
        pairs.of_cluster(number)  # named now, not by a worker
    plan = PairsPlan(
        config=config,
        material=material,
        held_out=held_out,
        field=dataset.shown(config.size_px, pairs.ids),
        targets=tuple(map(str, numbers)) if config.per_cluster else (EVERY,),
        output=output,
    )
    stored = {
        "config": config.model_dump(mode="json"),
        "material": material.name,
        "held_out": held_out.name if held_out else None,
        "field": plan.field.model_dump(mode="json"),
        "targets": list(plan.targets),
    }
    write_text(output / "plan.json", json.dumps(stored, indent=1))
    return plan


def finetune_here(plan: PairsPlan, *, tell: Callable[[str], object]) -> Generator:
    """Train all targets in this process, one after another; return the generator of the first."""
    workers = Workers(device="cuda" if torch.cuda.is_available() else "cpu")
    for number, target in enumerate(plan.targets):
        tell(f"{plan.config.name}: {target}")
        left = [t for t in plan.targets[number + 1 :] if not (plan.folder(t) / RESULT).exists()]
        turn = Turn(name=target, number=number + 1, of=len(plan.targets), later=len(left))
        _train(plan, target, workers, partial(follow_here, tell=tell, turn=turn))
    return export_all(plan)


def finetune_on_ray(plan: PairsPlan) -> Generator:
    """Train all targets on the cluster, side by side as far as it has room; return the first.

    Raises:
        ClusterError: a target failed more often than it may; the others are finished.
    """
    config = plan.config
    train_side_by_side(
        _on_worker, plan.targets, name=config.name, cluster=config.cluster, output=plan.output
    )
    return export_all(plan)


def load_plan(output: Path) -> PairsPlan:
    """Return the plan in `output`."""
    stored = json.loads((output / "plan.json").read_text())
    return PairsPlan(
        config=PairsConfig.model_validate(stored["config"]),
        material=output / stored["material"],
        held_out=output / stored["held_out"] if stored["held_out"] else None,
        field=Shown.model_validate(stored.get("field") or {}),
        targets=tuple(stored["targets"]),
        output=output,
    )


def export_all(plan: PairsPlan) -> Generator:
    """Write the generators of all finished targets; return the first."""
    made = [export(plan, target) for target in plan.targets]
    return made[0]


def export(plan: PairsPlan, target: str) -> Generator:
    """Write the generator of a finished target and return it."""
    config, folder = plan.config, plan.folder(target)
    result = Result.load(folder)
    pairs = _part(load_pairs(plan.material), target)
    bare = config.model_copy(update={"lora": None})  # it lies folded in
    task = _task(bare, pairs, Workers())
    task.network.load_state_dict(load_file(folder / "weights.safetensors"))
    manifest: dict[str, Any] = {
        "name": config.name if target == EVERY else f"{config.name}-{target}",
        "method": "pairs",
        "size_px": config.size_px,
        "class_names": sorted(set(pairs.labels)),
        "mask_values": list(pairs.mask_values),
        "condition": config.condition,
        "labels": list(task.network.config.labels),
        "split_digest": pairs.split_digest,
        "dataset_fingerprint": pairs.dataset_fingerprint,
        "licence": "as the images it was trained on",
        "config": config.model_dump(mode="json", exclude={"clusters"}),
        "images_trained": len(pairs.ids),
        "gates": measured(pairs.images, pairs.labels).model_dump(mode="json"),
        "field": plan.field.model_dump(mode="json"),
        "steps_trained": result.step,
        "validation": {target: {"step": result.step, **result.metrics}},
    }
    if task.base_model_id is not None:
        manifest["base_model_id"] = task.base_model_id
    if pairs.clusters and (config.condition == "cluster" or config.per_cluster):
        manifest["clusters"] = {"members": pairs.members}
    parts = {"unet": task.network.eval(), "scheduler": task.scheduler}
    parts |= {"vae": task.codec.vae} if task.codec.vae is not None else {}
    pictures = {SHEET: result.grid.read_bytes()} if result.grid else {}
    figures = validation_figures(manifest["validation"], [*pictures])
    made = write_generator(
        folder / "generator",
        parts=parts,
        manifest=manifest,
        card=pair_card(manifest, figures),
        pictures=pictures,
    )
    if config.clusters is not None:
        shutil.copyfile(config.clusters, made.folder / CLUSTERS)
    return open_generator(made.folder)


def _on_worker(settings: dict[str, str]) -> None:
    plan, target = load_plan(Path(settings["output"])), settings["target"]
    log_dir = plan.output / "tensorboard" / target
    workers = this_worker(plan.config.cluster.sharding)
    turn = turn_of(settings, plan.targets)
    _train(plan, target, workers, partial(follow, log_dir=log_dir, turn=turn))


def _train(plan: PairsPlan, target: str, workers: Workers, run: Follow) -> None:
    """Train one target to its end and leave its average weights in its folder."""
    pairs = _part(load_pairs(plan.material), target)
    task = _task(plan.config, pairs, workers)
    loop = pairs_loop(task, pairs, plan.folder(target) / "checkpoints")
    validation = _validation(plan, target, task, loop, pairs)
    run(loop, validate=validation, validate_every=plan.config.validation.every_steps)
    if plan.config.validation.best_by is not None:
        loop.restore_best()
    grid = validation.finish()
    tensors = trained_weights(task, loop)  # every worker: shards are gathered
    if workers.first:
        Result(step=loop.step, metrics=loop.metrics, grid=grid).save(plan.folder(target))
        write_bytes(plan.folder(target) / "weights.safetensors", save(tensors))


def _validation(
    plan: PairsPlan, target: str, task: PairTask, loop: Loop, pairs: PairSet
) -> Validation:
    settings = plan.config.validation
    held_out = load_pairs(plan.held_out) if plan.held_out else None

    def losses() -> dict[str, float]:
        if held_out is None:
            return {}
        return task.validate(held_out, max_images=settings.max_images)

    return Validation(
        loop=loop,
        settings=settings,
        losses=losses,
        sample=pair_samples(task, plan.config.name),
        class_names=tuple(task.network.config.labels) or (plan.config.name,),
        folder=plan.folder(target) / "samples",
        gates=measured(pairs.images, pairs.labels).thresholds,
    )


def trained_weights(task: PairTask, loop: Loop) -> dict[str, torch.Tensor]:
    """Return the average weights on the CPU; with shards every worker must call it."""
    lora = task.config.lora
    with loop.ema.applied(inner(task.model)):
        state = folded_state(task.network, lora) if lora else task.network.state_dict()
        return {
            name: whole(value).detach().cpu().contiguous().clone() for name, value in state.items()
        }


def _task(config: PairsConfig, pairs: PairSet, workers: Workers) -> PairTask:
    """Return the network of a training; a base brings its own autoencoder."""
    base = load_base(config)
    vae = _autoencoder(config) if base is None else None
    return build_task(config, pairs, vae=vae, base=base, workers=workers)


def _part(pairs: PairSet, target: str) -> PairSet:
    return pairs if target == EVERY else pairs.of_cluster(int(target))


def _autoencoder(config: PairsConfig) -> Any:
    """Return the frozen autoencoder of the latent form; None in pixel form."""
    if config.autoencoder is None:
        return None
    return load_pipeline(find_generator(config.autoencoder)).vae.requires_grad_(False).eval()
