"""A study: arms x folds x seeds on one real dataset, planned before anything is trained."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import product

from catalog import Catalog, sql
from factory.config import Shots
from factory.digest import digest
from factory.errors import ConfigError, DataError
from factory.evaluate.arms import Drawn, Manifest, Stock
from factory.evaluate.config import OLD_SHOTS_SEED, StudyConfig
from factory.evaluate.designs import BOUNDS, SelfTraining
from factory.evaluate.lineage import Barred, Known, Origin, Surplus, family, surpluses
from factory.evaluate.rows import make_arms
from factory.evaluate.synthetic import EMPTY, Pool, known_models, read_pool
from factory.evaluate.units import Unit
from factory.measure.intervals import counted
from factory.real.dataset import RealDataset
from factory.real.leaks import Held, Use, check_apart, refuse_leaks
from factory.real.splits import Split, n_shot


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a study works on. `generator_splits`: those of generators that were trained apart."""

    dataset: RealDataset
    splits: tuple[Split, ...]
    catalog: Catalog | None = None
    generator_splits: tuple[Split, ...] = ()
    seen: tuple[Use, ...] = ()
    """Other real images that generators, references, clusters or gates saw."""
    sources: Mapping[str, RealDataset] = field(default_factory=dict)
    """Real images of other labs by name, for arms that say so."""
    expected: Pool | None = None
    """What is still to be drawn, in place of the catalog's rows: a plan before its images."""
    models: Mapping[str, Origin] = field(default_factory=dict)
    """By id, beside those that the catalog knows."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A study that may run: nothing leaks, and every arm has its rows."""

    config: StudyConfig
    inputs: Inputs
    pool: Pool
    units: tuple[Unit, ...]
    notes: tuple[str, ...]
    subgroup_of: Mapping[str, str]
    """Of real images, where the study asks for subgroups."""
    knew: Mapping[str, str] = field(default_factory=dict)
    """What each arm knew, in words."""

    @property
    def id(self) -> str:
        """Names the evaluation: everything that decides its figures."""
        return digest([self.config.digest, self.pool.version, [unit.id for unit in self.units]])


def plan_study(config: StudyConfig, inputs: Inputs) -> Planned:
    """Refuse leaks and plan all trainings; nothing is trained or tested yet.

    Raises:
        ConfigError: arms with synthetic images and no catalog, an attribute of subgroups that no
            image has, or see `plan_units`.
        DataError: a leak, a split of another dataset, too few images.
        CatalogError: see `read_pool`.
    """
    if config.mixed and inputs.catalog is None and inputs.expected is None:
        raise ConfigError(
            f"arm {config.mixed[0]!r} takes synthetic images, and no catalog has them",
            remedy="Give --catalog, or leave out arms with synthetic images",
        )
    dataset, catalog = inputs.dataset, inputs.catalog
    _check_without(config, dataset)
    subgroup_of = subgroup_values(dataset, config.subgroups)
    pool = inputs.expected or EMPTY
    if inputs.expected is None and catalog is not None:
        pool = read_pool(catalog, config.synthetic, dataset.class_names, without=config.without)
    fingerprints = {use.dataset.fingerprint for use in inputs.seen}
    known = Known(
        splits={split.digest: split for split in inputs.generator_splits},
        models={**inputs.models, **known_models(catalog)},
        foreign=frozenset([*config.synthetic.foreign, *fingerprints]) - {dataset.fingerprint},
    )
    config = _with_shots_seed(config, [known.about(o) for o in pool.origins.values()])
    drawn, refusals, told = [], [], []
    for fold, split in enumerate(inputs.splits):
        held = _checked(inputs, split)
        _apart_from_sources(inputs, held)
        images, refused = pool.usable(held, split, known)
        drawn.append(images)
        refusals.append(refused)
        if config.mixed and not images:
            raise _nothing_to_use(fold, refused)
        told += _information(config, dataset, split, pool, images, known)
    units = plan_units(
        config,
        dataset,
        inputs.splits,
        drawn,
        picked=_picked(config, catalog),
        trained=_trainings(config, pool, known),
        sources=_classes_of(inputs.sources),
    )
    return Planned(
        config=config,
        inputs=inputs,
        pool=pool,
        units=tuple(units),
        notes=(*_left_out(refusals), *dict.fromkeys(told)),
        knew=who_knew(config, units, pool, known),
        subgroup_of=subgroup_of,
    )


def plan_units(
    config: StudyConfig,
    dataset: RealDataset,
    splits: Sequence[Split],
    drawn: Sequence[Sequence[Drawn]],
    *,
    picked: Mapping[str, Set[str]] | None = None,
    trained: Sequence[Set[str]] = (),
    sources: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Unit]:
    """Return every training, seed by seed: a study that is cut off still has pairs.

    Args:
        config: what is compared.
        dataset: the real images.
        splits: one per fold, of `dataset`.
        drawn: what the arms of each fold may take.
        picked: ids of the drawn images by the condition (`where`) of an arm.
        trained: ids of the drawn images of each of `config.generators`.
        sources: class by id of each source.

    Raises:
        ConfigError: no fold, or an arm that names what is not there.
        DataError: too few real or synthetic images for an arm.
    """
    if not splits:
        raise ConfigError("a study without a split", remedy="Give one or more --split files")
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    names = tuple(name for name in dataset.class_names if name not in config.without)
    several = bool(config.draws or config.generators)
    digests = [split.digest for split in splits]
    whole = [train_ids(config, split, labels, shots=None) for split in splits]
    held = [
        [tuple(i for i in part if labels[i] in names) for part in (split.val, split.test)]
        for split in splits
    ]
    units = []
    for seed, (fold, split), draw, number in product(
        config.seeds,
        enumerate(splits),
        range(config.draws or 1),
        range(max(1, len(trained))),
    ):
        own = trained[number] if trained else None
        stock = Stock(
            class_names=names,
            real={},
            drawn=[d for d in drawn[fold] if own is None or d.id in own],
            seed=seed,
            picked=picked or {},
            sources=sources or {},
            train=whole[fold],
        )
        units += [
            Unit(
                learner=config.learner,
                manifest=manifest,
                fold=fold,
                seed=seed,
                split_digest=digests[fold],
                val=held[fold][0],
                test=held[fold][1],
                draw=draw if several else None,
                generator=number,
            )
            for manifest in _arms(config, split, labels, stock, draw).values()
        ]
    return units


def _arms(
    config: StudyConfig, split: Split, labels: Mapping[str, str], stock: Stock, draw: int
) -> dict[str, Manifest]:
    """Return the manifests of a draw: arms of equally many shots choose from one stock."""
    made: dict[str, Manifest] = {}
    asked = [config.shots_of(name) for name in config.arms]
    for shots in (each for n, each in enumerate(asked) if each not in asked[:n]):
        designs = {n: arm for n, arm in config.arms.items() if config.shots_of(n) == shots}
        real = {i: labels[i] for i in train_ids(config, split, labels, shots=shots, draw=draw)}
        made |= make_arms(designs, replace(stock, real=real))
    return {name: made[name] for name in config.arms}


def train_ids(
    config: StudyConfig,
    split: Split,
    labels: Mapping[str, str],
    *,
    shots: Shots | None,
    draw: int = 0,
) -> tuple[str, ...]:
    """Return the real training images: the train part, or so many shots of each class.

    Draws are numbered from `shots_seed`; the fewer of a draw are among the more.

    Raises:
        DataError: a class with fewer images than shots, or shots of no class.
    """
    train = tuple(i for i in split.train if labels[i] not in config.without)
    if shots is None:
        return train
    seed = OLD_SHOTS_SEED if config.shots_seed is None else config.shots_seed
    found = n_shot(replace(split, train=train), labels=labels, shots=shots, seed=seed + draw)
    return tuple(i for ids in found.values() for i in ids)


def _classes_of(sources: Mapping[str, RealDataset]) -> dict[str, dict[str, str]]:
    return {n: dict(zip(d.ids, d.labels, strict=True)) for n, d in sources.items()}


def _picked(config: StudyConfig, catalog: Catalog | None) -> dict[str, Set[str]]:
    """Return the ids of drawn images by the conditions of arms.

    Raises:
        CatalogError: a condition that does not parse, or names unknown columns.
        ConfigError: a condition of images that are still to be drawn.
    """
    found: dict[str, Set[str]] = {}
    for name in config.mixed:
        condition = config.arms[name].where  # type: ignore[union-attr]
        if condition is None or condition in found:
            continue
        if catalog is None:
            raise ConfigError(
                f"arm {name!r} takes images where {condition}, and none are drawn yet",
                remedy="Leave `where` out, or draw first",
            )
        rows = sql(catalog, f"SELECT image_id FROM samples WHERE {condition}")
        found[condition] = frozenset(rows["image_id"].to_pylist())
    return found


def _trainings(config: StudyConfig, pool: Pool, known: Known) -> list[Set[str]]:
    """Return the ids of the drawn images of each of the generators that a study names.

    Raises:
        ConfigError: one drew none of them.
    """
    told = {model: {model, known.about(o).name, o.name} for model, o in pool.origins.items()}
    found: list[Set[str]] = []
    for asked in config.generators:
        own = {model for model, names in told.items() if asked in names}
        found.append(frozenset(i for i, model in pool.model_of.items() if model in own))
        if not found[-1]:
            have = sorted(str(name) for names in told.values() for name in names if name)
            raise ConfigError(
                f"generators: {asked!r} drew none of the synthetic images",
                remedy=f"Choose of {', '.join(have) or 'none: draw some with it'}",
            )
    return found


def _check_without(config: StudyConfig, dataset: RealDataset) -> None:
    names = set(dataset.class_names)
    if unknown := sorted(set(config.without) - names):
        raise ConfigError(
            f"without: there is no class {unknown[0]!r}",
            remedy=f"Choose of {', '.join(dataset.class_names)}",
        )
    if len(names - set(config.without)) == 0:
        raise ConfigError("without: no class is left", remedy="Leave fewer classes out")


def _with_shots_seed(config: StudyConfig, origins: Sequence[Origin]) -> StudyConfig:
    """Return the study with a seed of its shots: that by which its generators chose theirs."""
    choices = [o.choice for o in origins if o.choice and o.choice.n_shot is not None]
    seeds = {choice.seed for choice in choices}
    if config.shots_seed is not None or config.shots is None or len(seeds) != 1:
        return config
    return config.model_copy(update={"shots_seed": seeds.pop()})


def _information(
    config: StudyConfig,
    dataset: RealDataset,
    split: Split,
    pool: Pool,
    images: Sequence[Drawn],
    known: Known,
) -> list[str]:
    """Return what drawn images know that the real arms of a fold do not, as notes.

    Raises:
        DataError: generators saw real training images that the real arms do not hold.
    """
    if not (config.mixed and images):
        return []
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    real: Set[str] = frozenset(
        i
        for draw in range(config.draws or 1)
        for i in train_ids(config, split, labels, shots=config.shots, draw=draw)
    )
    origins = pool.origins_of(images)
    told = []
    for surplus in surpluses(origins, split, real, known, labels):
        if config.equal_information and surplus.of_labels:
            raise DataError(
                f"{surplus}: their arms would know more than the controls",
                remedy=f"{_equal(config, surplus)}, or compare openly: --set"
                " equal_information=false",
            )
        told.append(f"arms with synthetic images know more than their controls: {surplus}")
    shown = {i for image in images for i in image.reference_ids} & set(labels)
    if more := sorted(shown - real):
        what = (
            f"synthetic images were drawn from {len(shown)} real images, {len(more)} of which the"
            f" real arms do not hold, such as {more[0]!r}"
        )
        if config.equal_information:
            raise DataError(
                f"{what}: their arms would know more than the controls",
                remedy="Draw from the images of the real arms alone (references), leave shots out,"
                " or compare openly: --set equal_information=false",
            )
        told.append(f"arms with synthetic images know more than their controls: {what}")
    others = [
        m for m in family(origins, known) if m.dataset_fingerprint not in (None, split.dataset)
    ]
    return told + [
        f"{model} knows {model.images_trained or 'the'} images of another dataset"
        f" ({model.dataset_fingerprint}), which no control has seen"
        for model in others
    ]


def _equal(config: StudyConfig, surplus: Surplus) -> str:
    """Return what makes the real arms hold what a generator learnt from."""
    choice = surplus.model.choice
    if config.shots is None:
        return "Give the split that it was trained under"
    if choice is None or choice.n_shot is None:
        seed = OLD_SHOTS_SEED if config.shots_seed is None else config.shots_seed
        return (
            f"Leave shots out, or train it on the same images (n_shot={config.shots} seed={seed})"
        )
    return f"Use its images: --set shots={choice.n_shot} --set shots_seed={choice.seed}"


def who_knew(
    config: StudyConfig, units: Sequence[Unit], pool: Pool, known: Known
) -> dict[str, str]:
    """Return what each arm knew, in words: real labels, what its generators learnt, sources."""
    told = {}
    for name, arm in config.arms.items():
        manifest = next(unit.manifest for unit in units if unit.manifest.arm == name)
        rows, shots = manifest.rows, config.shots_of(name)
        real = len({row.id for row in rows if not (row.synthetic or row.made)})
        parts = ["no real image" if not real else f"{real} labelled real images"]
        if real and isinstance(shots, int):
            parts = [f"{counted(shots, 'labelled real image')} of each class"]
        drew = dict.fromkeys(pool.model_of[r.id] for r in rows if r.synthetic and pool.model_of)
        models = family([pool.origins[model] for model in drew], known)
        parts += [model.knows for model in models]
        if arm.expert is not None:
            parts.append(f"what the network {arm.expert!r} learnt of its images")
        if unnamed := sum(row.made == "own" for row in rows):
            parts.append(f"{counted(unnamed, 'real image')} of the train part without a label")
        if isinstance(arm, BOUNDS):
            count = sum(not row.is_own for row in rows)
            without = ", without their labels" if isinstance(arm, SelfTraining) else ""
            parts.append(f"{count} real images of source {arm.source!r}{without}")
        told[name] = "; ".join(parts)
    return told


def _nothing_to_use(fold: int, refused: Mapping[str, Barred]) -> ConfigError:
    remedies = dict.fromkeys(barred.remedy for barred in refused.values())
    return ConfigError(
        f"no synthetic image may be used in fold {fold}:"
        f" {'; '.join(map(str, refused.values())) or 'none was accepted'}",
        remedy="; ".join(remedies)
        or "Draw some with `factory generate`, or choose others with synthetic.where",
    )


def subgroup_values(dataset: RealDataset, attribute: str | None) -> dict[str, str]:
    """Return what the attribute says of each image; nothing of those that have none.

    Raises:
        ConfigError: no image has the attribute.
    """
    if attribute is None:
        return {}
    found = {i: own[attribute] for i, own in dataset.attributes.items() if own.get(attribute)}
    if not found:
        known = sorted({name for own in dataset.attributes.values() for name in own})
        raise ConfigError(
            f"subgroups: no image has an attribute {attribute!r}",
            remedy=f"Choose of {', '.join(known)}" if known else "Add it to metadata.csv",
        )
    return found


def _left_out(refusals: Sequence[Mapping[str, Barred]]) -> tuple[str, ...]:
    """Return notes on models that may not be used, by fold: reasons where none may use them."""
    reasons = {model: reason for refused in refusals for model, reason in refused.items()}
    nowhere = [m for m in reasons if all(m in refused for refused in refusals)]
    notes = [f"images were left out, since {reasons[model]}" for model in nowhere]
    if some := len(reasons) - len(nowhere):
        notes.append(
            f"images of {counted(some, 'generator')} serve some folds alone: those under whose"
            " split they were trained"
        )
    return tuple(notes)


def _apart_from_sources(inputs: Inputs, held: Held) -> None:
    """Refuse sources that hold a held-out image.

    Raises:
        DataError: naming them.
    """
    refuse_leaks(
        held,
        [Use(what=f"source {n}", dataset=d, ids=d.ids) for n, d in inputs.sources.items()],
    )


def _checked(inputs: Inputs, split: Split) -> Held:
    """Return the held-out images of a fold that nothing saw.

    Raises:
        DataError: a split of another dataset, or a leak.
    """
    held = check_apart(inputs.dataset, split)
    refuse_leaks(held, inputs.seen)
    return held
