"""Prepares a fine-tuning of a text-conditioned base: images chosen, encoded once, written down."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from factory.errors import ConfigError, DataError
from factory.finetune.adapt import resumable
from factory.finetune.adapt_autoencoder import with_adapted_autoencoder
from factory.finetune.checkpoint import check_newest
from factory.finetune.config import FinetuneConfig
from factory.finetune.expert_features import features_of
from factory.finetune.material import GATED, load_material, make_material, spread
from factory.finetune.plan import Plan, choose_images
from factory.finetune.validation import FEWEST, keep_features
from factory.gate.calibration import calibrate
from factory.measure.features import load_feature_space
from factory.models.conditioning import check_text_parts, tokenize
from factory.models.expert_file import load_expert
from factory.models.experts import Expert
from factory.models.generator import EVERY_CLASS, find_generator
from factory.models.pipeline import load_pipeline
from factory.models.prompts import Reader
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset


def prepare(
    config: FinetuneConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    latents: Path | None = None,
    tell: Callable[[str], object] = lambda _line: None,
) -> Plan:
    """Choose the images, encode them once, and write down what will be trained.

    Args:
        latents: where encoded images are kept; several runs may share it. None: in `output`.
        tell: is told how the adaptation of the base's autoencoder goes.

    Raises:
        DataError: a split of another dataset, a class without images, fewer than `n_shot`, a val or
            test image in the train part.
        ConfigError: prompts for classes that the dataset has not; an aligned run without expert; a
            base whose tokenizer, text encoder and U-Net do not belong together.
        ModelError: the base cannot be loaded, or `output` holds a run of another configuration.
    """
    _check(config, dataset, split)
    ids = choose_images(dataset, split, config)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    config = with_adapted_autoencoder(config, dataset, split, output=output, tell=tell)
    base = find_generator(config.base, revision=config.revision)
    size_px = config.size_px or base.size_px
    pipeline, seen = load_pipeline(base), features_of(expert_of(config), config.alignment)
    check_text_parts(pipeline)
    config = with_read_prompts(config, sorted({labels[i] for i in ids}), pipeline.tokenizer, tell)

    def encoded(chosen: Sequence[str]) -> Path:
        return make_material(
            dataset,
            chosen,
            split,
            generator=base,
            autoencoder=pipeline.vae,
            size_px=size_px,
            turns=config.turns,
            folder=latents or output / "latents",
            features_of=seen,
        )

    classes = tuple(sorted({labels[i] for i in ids}))
    held_out = [i for i in split.val if labels[i] in classes]
    _check_validation(config, Counter(labels[i] for i in held_out), classes)
    seen_by_gates = [ids[row] for row in spread([labels[i] for i in ids], GATED)]
    plan = Plan(
        config=config,
        base_model_id=base.model_id,
        material=encoded(ids),
        validation=encoded(held_out) if held_out else None,
        targets=classes if config.separate else (EVERY_CLASS,),
        output=output,
        gates=calibrate(dataset.array(size_px, seen_by_gates), [labels[i] for i in seen_by_gates]),
        field=dataset.shown(size_px, ids),
    )
    if config.validation.features is not None and plan.validation is not None:
        keep_features(
            dataset,
            held_out,
            load_feature_space(config.validation.features),
            size_px=size_px,
            folder=plan.validation,
        )
    _check_begun(plan)
    plan.save()
    return plan


def with_read_prompts(
    config: FinetuneConfig,
    class_names: Sequence[str],
    tokenizer: Any,
    tell: Callable[[str], object],
) -> FinetuneConfig:
    """Return `config` with prompts of which every word is read; `tell` hears what is left out.

    Raises:
        ConfigError: classes that one LoRA, or the whole network, could not tell apart.
    """
    reader, used = Reader.of(tokenizer), dict[str, str]()
    tokens: dict[tuple[int, ...], str] = {}
    for name in class_names:
        found = reader.read(config.prompt_of(name))
        if found.cut:
            used[name] = found.read
            tell(
                f"{name}: the base reads {found.most} of {found.tokens} tokens of its prompt:"
                f" {found.cut!r} is cut off, it is trained and drawn as {found.read!r}"
            )
        elif found.unknown:
            tell(f"{name}: the base does not know the letters {found.unknown!r} of its prompt")
        ids = tuple(tokenize(tokenizer, [found.read])[0].tolist())
        same = tokens.setdefault(ids, name)
        if same != name and not config.separate:
            raise ConfigError(
                f"classes {same!r} and {name!r} have prompts that the base reads alike:"
                f" {found.read!r}",
                remedy="Give them prompts that differ (classes: {name: prompt}), or set separate:"
                " true for a LoRA each",
            )
    if not used:
        return config
    return config.model_copy(update={"classes": {**config.classes, **used}})


def _check_begun(plan: Plan) -> None:
    """Raise where a run that began in this output cannot be continued by this one."""
    material = load_material(plan.material)
    for target in plan.targets:
        part = material if target == EVERY_CLASS else material.of_class(target)
        check_newest(
            plan.folder_of(target) / "checkpoints",
            config=resumable(plan.config, part, base_model_id=plan.base_model_id),
        )


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


def _check(config: FinetuneConfig, dataset: RealDataset, split: Split) -> None:
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


def expert_of(config: FinetuneConfig) -> Expert | None:
    """Return the expert that steers a training; None where nothing is aligned.

    Raises:
        ModelError: its folder is no whole expert.
    """
    if config.expert is None or not config.alignment.weight:
        return None
    return load_expert(config.expert)[0]
