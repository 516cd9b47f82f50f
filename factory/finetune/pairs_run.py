"""A whole training of pairs: real pairs in, a generator folder out, here or on Ray Train.

    images + masks + split (+ clusters) -> prepared -> a training for every target -> generators

A target is all pairs, or one cluster; clusters train side by side where the machines have room,
from nothing or from one base, all their weights or a LoRA.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from factory.atomic import write_bytes, write_text
from factory.digest import digest
from factory.finetune.loop import Loop
from factory.finetune.material import measured
from factory.finetune.pairs import PairTask, build_task, pairs_loop
from factory.finetune.pairs_base import load_base, with_base
from factory.finetune.pairs_config import PairsConfig
from factory.finetune.pairs_data import PairSet, load_pairs, prepare_pairs
from factory.finetune.train import (
    follow,
    follow_here,
    this_worker,
    train_side_by_side,
)
from factory.finetune.workers import Workers, inner
from factory.models.export import write_generator
from factory.models.generator import CLUSTERS, Generator, find_generator, open_generator
from factory.models.lora import folded_state
from factory.models.pair_card import pair_card
from factory.models.shards import whole
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.sample.engine import load_pipeline

EVERY = "all"
"""The target that learns from all pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsPlan:
    """Everything a worker needs to know; `plan.json` in the output folder."""

    config: PairsConfig
    material: Path
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
    material = output / f"pairs-{name}"
    if not (material / "pairs.json").exists():
        prepare_pairs(config, dataset, split, material, autoencoder=_autoencoder(config))
    pairs = load_pairs(material)
    numbers = config.only_clusters or tuple(sorted(set(pairs.clusters)))
    for number in config.only_clusters:
        pairs.of_cluster(number)  # named now, not by a worker
    plan = PairsPlan(
        config=config,
        material=material,
        targets=tuple(map(str, numbers)) if config.per_cluster else (EVERY,),
        output=output,
    )
    stored = {
        "config": config.model_dump(mode="json"),
        "material": material.name,
        "targets": list(plan.targets),
    }
    write_text(output / "plan.json", json.dumps(stored, indent=1))
    return plan


def finetune_here(plan: PairsPlan, *, tell: Callable[[str], object]) -> Generator:
    """Train all targets in this process, one after another; return the generator of the first."""
    workers = Workers(device="cuda" if torch.cuda.is_available() else "cpu")
    for target in plan.targets:
        tell(f"{plan.config.name}: {target}")
        _train(plan, target, workers, lambda loop: follow_here(loop, tell=tell))
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
        "steps_trained": config.training.steps,
    }
    if task.base_model_id is not None:
        manifest["base_model_id"] = task.base_model_id
    if pairs.clusters and (config.condition == "cluster" or config.per_cluster):
        manifest["clusters"] = {"members": pairs.members}
    parts = {"unet": task.network.eval(), "scheduler": task.scheduler}
    parts |= {"vae": task.codec.vae} if task.codec.vae is not None else {}
    made = write_generator(
        folder / "generator", parts=parts, manifest=manifest, card=pair_card(manifest)
    )
    if config.clusters is not None:
        shutil.copyfile(config.clusters, made.folder / CLUSTERS)
    return open_generator(made.folder)


def _on_worker(settings: dict[str, str]) -> None:
    plan, target = load_plan(Path(settings["output"])), settings["target"]
    log_dir = plan.output / "tensorboard" / target
    workers = this_worker(plan.config.cluster.sharding)
    _train(plan, target, workers, lambda loop: follow(loop, log_dir=log_dir))


def _train(plan: PairsPlan, target: str, workers: Workers, run: Callable[[Loop], None]) -> None:
    """Train one target to its end and leave its average weights in its folder."""
    pairs = _part(load_pairs(plan.material), target)
    task = _task(plan.config, pairs, workers)
    loop = pairs_loop(task, pairs, plan.folder(target) / "checkpoints")
    run(loop)
    tensors = trained_weights(task, loop)  # every worker: shards are gathered
    if workers.first:
        write_bytes(plan.folder(target) / "weights.safetensors", save(tensors))


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
