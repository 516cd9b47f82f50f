"""A generator of image + mask pairs: real pairs in, a generator folder out.

    images + masks + split (+ clusters) -> (latents) -> a training for every target -> generators

A target is all pairs, or one cluster; clusters train side by side where the machines have room,
from factory.terminal import Tell
from nothing or from one base, all their weights or a LoRA.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factory.digest import digest
from factory.errors import ConfigError, DataError
from factory.finetune.alignment import expert_of, features_of
from factory.finetune.autoencoder import fit_first_stage, load_first_stage
from factory.finetune.config import PatchConfig
from factory.finetune.data import Material, encoded, load_material, take_material
from factory.finetune.images import choose_images, val_images
from factory.finetune.memory import Sketch
from factory.finetune.method import Follow, Task, task_of
from factory.finetune.plan import Plan, planned
from factory.finetune.run import figures_of, finished, manifest_of, marks_of, sheet_of
from factory.finetune.workers import Workers
from factory.methods.pairs.config import PairsConfig
from factory.methods.pairs.task import PairTask, build_task, load_base
from factory.models.card import pair_card
from factory.models.export import write_generator
from factory.models.generator import (
    CLUSTERS,
    EVERY_CLASS,
    Generator,
    find_generator,
    open_generator,
)
from factory.models.pair_codec import class_index_array
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.models.pipeline import load_pipeline
from factory.real.clusters import load_clusters
from factory.real.dataset import RealDataset
from factory.real.mask_values import found_values
from factory.real.splits import Split
from factory.terminal import Tell

UNSEEN = {"cluster", "name", "only_clusters", "validation"}
"""Keys that no weight depends on."""
TAKEN_OVER = ("size_px", "fold", "condition", "prediction_type", "beta_schedule", "network")
"""Keys that belong to the network: a base brings its own."""


def prepare(
    config: PairsConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    stages: Path | None = None,
    tell: Tell,  # noqa: ARG001 -- there is nothing to say
) -> Plan:
    """Read the pairs once, and say what the classes, clusters and mask values are.

    Raises:
        ConfigError: see `with_base`; an aligned run without expert.
        DataError: see `with_base`, `choose_images` and `check_images`; a cluster that is not there.
        ModelError: the base's or the autoencoder's generator cannot be loaded.
    """
    expert_of(config)
    config = with_base(config, dataset, split)
    if isinstance(config.autoencoder, str):
        find_generator(config.autoencoder)
    learn = learnt(config, dataset, split)
    if config.condition is None:
        several = len(learn.class_names) > 1 and not config.per_cluster
        config = config.model_copy(update={"condition": "class" if several else "none"})
    numbers = config.only_clusters or tuple(sorted(set(learn.clusters)))
    for number in config.only_clusters:
        learn.of_cluster(number)  # named now, not by a worker
    return planned(
        config,
        learn,
        _held_out(config, dataset, split, learn),
        field=dataset.shown(config.size_px, learn.ids),
        targets=tuple(map(str, numbers)) if config.per_cluster else (EVERY_CLASS,),
        output=output,
        stages=stages,
    )


def learnt(config: PairsConfig, dataset: RealDataset, split: Split) -> Material:
    """Return the pairs to learn from: masks as class indices, clusters where there are any."""
    ids = sorted(choose_images(dataset, split, config))
    config.check_images(dataset, ids)
    values = config.mask_values or found_values(dataset, ids)
    found = _pairs(config, dataset, split, ids, values)
    if config.clusters is None:
        return found
    clusters = load_clusters(config.clusters, split)
    number = dict(zip(clusters.ids, clusters.numbers.tolist(), strict=True))
    return replace(found, clusters=tuple(number[i] for i in ids))


def _held_out(
    config: PairsConfig, dataset: RealDataset, split: Split, learn: Material
) -> Material | None:
    """Return the pairs of the val part that a validation can use; None where there are none.

    They are of the classes and mask values of the train part. Only that part has clusters.
    """
    if config.condition == "cluster" or config.per_cluster:
        return None
    contents = dict(zip(dataset.ids, dataset.contents, strict=True))
    known = set(learn.mask_values)
    ids = [
        i
        for i in val_images(dataset, split, learn.class_names)
        if contents[i].mask_values and {count.value for count in contents[i].mask_values} <= known
    ]
    return _pairs(config, dataset, split, ids, learn.mask_values) if ids else None


def _pairs(
    config: PairsConfig,
    dataset: RealDataset,
    split: Split,
    ids: Sequence[str],
    values: Sequence[int],
) -> Material:
    found = take_material(dataset, ids, split, size_px=config.size_px, masks=True)
    assert found.masks is not None  # noqa: S101 -- for mypy
    indices = class_index_array(found.masks.numpy(), values, names=ids)
    return replace(found, masks=torch.from_numpy(indices), mask_values=tuple(values))


def trains_first(_plan: Plan) -> bool:
    """Whether an autoencoder is still to be trained: never, one is taken as it is or fitted."""
    return False


def first_stage(plan: Plan, *, device: str, follow: Follow) -> None:  # noqa: ARG001
    """Fit the autoencoder and encode the images, in latent form."""
    stage = plan.config.autoencoder
    if isinstance(stage, PatchConfig):
        fit_first_stage(stage, load_material(plan.learn).images, _fitted(plan))
    vae = _autoencoder(plan)
    for path in (plan.learn, plan.held_out):
        if path is not None:
            _encoded(plan, load_material(path), vae, device=device)


def depends_on(plan: Plan, target: str) -> Mapping[str, Any]:
    """Return all that the weights of a target depend on."""
    config, part = plan.config, _part(load_material(plan.learn), target)
    unused = UNSEEN | (set() if config.alignment.weight else {"alignment", "expert"})
    known: dict[str, Any] = config.model_dump(mode="json", exclude=unused)
    return known | {
        "base_model_id": find_generator(config.base).model_id if config.base else None,
        "split_digest": part.split_digest,
        "ids_digest": part.ids_digest,
    }


def task(plan: Plan, target: str, workers: Workers) -> Task:
    """Return the network of a target ready to be trained."""
    config, vae = plan.config, _autoencoder(plan)
    encode = partial(_encoded, plan, vae=vae, device=workers.device)
    pairs = _part(encode(load_material(plan.learn)), target)
    held_out = encode(load_material(plan.held_out)) if plan.held_out else None
    made = _task(config, pairs, vae, workers=workers)

    return task_of(
        made,
        pairs,
        held_out,
        depends_on=depends_on(plan, target),
        sample=made.samples(),
        rows=tuple(made.network.config.labels) or (config.name,),
    )


def export(plan: Plan) -> Generator:
    """Write the generators of all finished targets; return the first."""
    made = [export_target(plan, target) for target in plan.targets]
    return made[0]


def export_target(plan: Plan, target: str) -> Generator:
    """Write the generator of a finished target and return it."""
    config, pairs = plan.config, _part(load_material(plan.learn), target)
    result, tensors = finished(plan, target)
    bare = config.model_copy(update={"lora": None})  # it lies folded in
    made = _task(_unaligned(bare), pairs, _autoencoder(plan))
    made.network.load_state_dict(tensors)
    own: dict[str, Any] = {}
    if config.base:
        own["base_model_id"] = find_generator(config.base).model_id
    if pairs.clusters and (config.condition == "cluster" or config.per_cluster):
        own["clusters"] = {"members": _members(pairs)}
    manifest = manifest_of(
        plan,
        pairs,
        {target: result},
        name=config.name if target == EVERY_CLASS else f"{config.name}-{target}",
        mask_values=list(pairs.mask_values),
        condition=config.condition,
        labels=list(made.network.config.labels),
        licence="as the images it was trained on",
        config=config.model_dump(mode="json", exclude={"clusters"}),
        gates=pairs.measured().model_dump(mode="json"),
        **own,
    )
    parts = {"unet": made.network.eval(), "scheduler": made.scheduler}
    parts |= {"vae": made.codec.vae} if made.codec.vae is not None else {}
    pictures = sheet_of({target: result})
    place = plan.output if target == EVERY_CLASS else plan.output / f"cluster-{int(target):02d}"
    written = write_generator(
        place / "generator",
        parts=parts,
        manifest=manifest,
        card=pair_card(manifest, figures_of(manifest, pictures)),
        files=pictures | marks_of(pairs),
    )
    if config.clusters is not None:
        shutil.copyfile(config.clusters, written.folder / CLUSTERS)
    return open_generator(written.folder)


def sketch(config: PairsConfig, learn: Material | None) -> Sketch:
    """Return the network on paper, of two mask values where nothing says more."""
    shown = learn or Material(
        images=torch.zeros(1, config.size_px, config.size_px, 3, dtype=torch.uint8),
        ids=("",),
        labels=config.only[:1] or ("one",),
        dataset_fingerprint="",
        split_digest="",
        mask_values=config.mask_values or (0, 255),
    )
    network = _task(_unaligned(config), shown, _on_paper(config.autoencoder)).network.to("meta")
    side = network.config.sample_size

    def forward(count: int) -> Tensor:
        sample, zeros = torch.zeros(count, network.channels, side, side), torch.zeros(count)
        labels = zeros.long() if network.config.labels else None
        prediction: Tensor = network(sample, zeros.long(), labels).sample
        return prediction

    return Sketch(name=config.name, network=network, forward=forward, size_px=config.size_px)


def _unaligned(config: PairsConfig) -> PairsConfig:
    return config.model_copy(
        update={"alignment": config.alignment.model_copy(update={"weight": 0})}
    )


def _task(
    config: PairsConfig, pairs: Material, vae: Any, *, workers: Workers | None = None
) -> PairTask:
    """Return the network of a training; a base brings its own autoencoder."""
    base, expert = load_base(config), expert_of(config)
    return build_task(
        config, pairs, vae=vae if base is None else None, base=base, expert=expert, workers=workers
    )


def _part(pairs: Material, target: str) -> Material:
    return pairs if target == EVERY_CLASS else pairs.of_cluster(int(target))


def _members(pairs: Material) -> dict[str, list[str]]:
    """Return the ids by cluster, as the manifest of a generator lists them."""
    found: dict[str, list[str]] = {}
    for image_id, number in sorted(zip(pairs.ids, pairs.clusters, strict=True)):
        found.setdefault(str(number), []).append(image_id)
    return dict(sorted(found.items(), key=lambda pair: int(pair[0])))


def _encoded(plan: Plan, pairs: Material, vae: Any, *, device: str) -> Material:
    """Return the pairs with their latents in latent form, and what an expert sees in them."""
    config, seen = plan.config, features_of(expert_of(plan.config), plan.config.alignment)
    if vae is None or isinstance(vae, PatchAutoencoder):  # cheaper than what would be read
        found = None if seen is None else seen(pairs.images, turns=8, device=device)
        return replace(pairs, features=found)
    named = find_generator(str(config.autoencoder)).model_id
    return encoded(pairs, plan.stages, vae, named=named, device=device, features_of=seen)


def _autoencoder(plan: Plan) -> Any:
    """Return the frozen autoencoder of the latent form; None in pixel form."""
    stage = plan.config.autoencoder
    if not isinstance(stage, PatchConfig):
        return _on_paper(stage)
    return load_first_stage(_fitted(plan)).requires_grad_(False)


def _fitted(plan: Plan) -> Path:
    """Return the folder of the autoencoder that is fitted to the images to learn from."""
    return (
        plan.stages / f"patches-{digest([plan.config.autoencoder.model_dump(), plan.learn.stem])}"
    )


def _on_paper(stage: str | PatchConfig | None) -> Any:
    """Return an autoencoder, one of patches before it is fitted; None in pixel form."""
    if stage is None:
        return None
    if isinstance(stage, PatchConfig):
        return PatchAutoencoder(patch_px=stage.patch_px, latent_channels=stage.components)
    return load_pipeline(find_generator(stage)).vae.requires_grad_(False).eval()


def with_base(config: PairsConfig, dataset: RealDataset, split: Split) -> PairsConfig:
    """Return `config` with what its base brings along; `config` itself without a base.

    Raises:
        ConfigError: a base of another method, or a key that says otherwise than the base.
        DataError: the base learnt from another split of the same images, some of which are now held
            out.
        ModelError: see `find_generator`.
    """
    if config.base is None:
        return config
    base = find_generator(config.base)
    _check_split(base, dataset, split)
    if base.manifest.get("method") != "pairs":
        raise ConfigError(
            f"base {config.base} draws no pairs (method {base.manifest.get('method')!r})",
            remedy="Name a generator that `factory finetune` trained with method: pairs",
        )
    known = dict(base.manifest["config"])
    latent = known.get("autoencoder") is not None
    brought = {key: known[key] for key in TAKEN_OVER} | {
        "autoencoder": config.base if latent else None,  # each folder holds its own
        "mask_values": base.manifest["mask_values"],
    }
    asked = config.model_dump(mode="json", include=set(config.model_fields_set))
    for key, value in brought.items():
        if asked.get(key) and asked[key] != value:
            raise ConfigError(
                f"{key} is {asked[key]!r}, but the base {config.base} has {value!r}",
                remedy=f"Leave {key} out, or start without a base",
            )
    return PairsConfig.model_validate(config.model_dump(mode="json") | brought)


def _check_split(base: Generator, dataset: RealDataset, split: Split) -> None:
    known = base.manifest.get("dataset_fingerprint"), base.manifest.get("split_digest")
    if known[0] == dataset.fingerprint and known[1] != split.digest:
        raise DataError(
            f"base {base.name} learnt from split {known[1]} of these images, this one is"
            f" {split.digest}: images that are held out here may be known to it",
            remedy="Use the base's split, or a base of other images",
        )
