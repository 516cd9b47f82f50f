"""Judges a generator of any method: draws, measures beside real images, and reports.

What it draws is measured by real images that it never saw; others in the place of drawn ones are
the floor, which a perfect generator would reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import softmax

from catalog.table import Catalog
from factory.arrays import Images
from factory.errors import ConfigError
from factory.judge.attributes import AttributeFigures, attribute_sheet, judge_attributes
from factory.judge.autoencoder import (
    AutoencoderFigures,
    autoencoder_figures,
    autoencoder_of,
    round_trip,
)
from factory.judge.bridges import (
    BridgeFigures,
    Grader,
    direction_figures,
    ends_of,
    judge_between,
    progressions,
    round_trips,
)
from factory.judge.config import JudgeConfig
from factory.judge.figures import Measures, SetFigures, measure, measure_floor, probabilities
from factory.judge.pairs import PairFigures, judge_pairs
from factory.judge.sets import ImageSet, RealSets, draw_set, open_real_sets, read_sets
from factory.measure.cache import ArrayCache
from factory.measure.copies import Nearest
from factory.measure.features import BACKBONE, load_feature_space
from factory.measure.intervals import mean_of
from factory.measure.judge import fit_judge
from factory.measure.perceptual import load_perceptual
from factory.measure.sheets import beside, pairs, sheet_of
from factory.models.domains import domains_of
from factory.models.expert_file import NOTES, load_expert
from factory.models.extractors import find_extractor
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.field import scale_line
from factory.real.splits import Split
from factory.sample.config import GenerateConfig
from factory.sample.prepare import with_classes
from factory.sample.references import References
from factory.terminal import Tell

SHOWN = 8
"""Images of each kind in a row of a sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReport:
    """Everything measured; `dataclasses.asdict` of it is judge.json."""

    generator: str
    model_id: str
    method: str
    steps_trained: int | None
    settings: Mapping[str, object]
    """Of drawing."""
    features: str
    judge: str
    """Networks of the distances and of the judge."""
    reference: str
    split_digest: str
    num_unseen: int
    num_learnt: int
    floor: SetFigures
    sets: Sequence[SetFigures]
    """Of drawn images, and of real ones back from the autoencoder, by name."""
    attributes: Sequence[AttributeFigures]
    pairs: Sequence[PairFigures]
    bridge: BridgeFigures | None
    autoencoder: AutoencoderFigures | None
    expert_val_accuracy: float | None
    notes: Sequence[str]
    """What a reader must know: scale, classes left out, figures that were not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A report, and sheets (PNG) by their caption, which show real images."""

    report: JudgeReport
    sheets: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is judged: a generator; what a catalog holds of it; and others to set beside it."""

    generator: Generator
    published: tuple[Catalog, str] | None = None
    """A catalog and the SQL condition on its samples; None: images are drawn now."""
    beside: tuple[Generator, ...] = ()
    """Drawn in the same way, such as the base before a fine-tuning."""


def judge(
    config: JudgeConfig,
    subject: Subject,
    dataset: RealDataset,
    split: Split,
    *,
    cache: ArrayCache,
    tell: Tell = lambda _line: None,
) -> Judged:
    """Return what a generator's images are like beside real ones that it never saw.

    Args:
        config: what is drawn and measured.
        subject: the generator.
        dataset: the real images of its training, or others.
        split: of `dataset`: that of the training.
        cache: keeps drawn batches and features, so that a killed judgement goes on.
        tell: gets a line now and then.

    Raises:
        ConfigError: classes, options or an expert that do not fit.
        DataError: another split than the training's, or too few real images.
        ModelError: weights that are missing or of another network.
        CatalogError: see `read_sets`.
    """
    generator = subject.generator
    by, classes, notes = open_judgement(config, generator, dataset, split, cache=cache, tell=tell)
    real = by.real
    drawn = _drawn(config, subject, real, tuple(classes), dataset, split, tell)
    whole = drawn[-1]  # all that was drawn
    bridge, drawn, unranked = _bridge(config, generator, whole, drawn, by)
    tell("measuring")
    found = [measure(each, by) for each in drawn]
    extra, autoencoder = _returned(config, generator, by)
    report = JudgeReport(
        generator=str(generator.manifest.get("name", generator.folder.name)),  # never a path
        model_id=generator.model_id,
        method=generator.method,
        steps_trained=generator.manifest.get("steps_trained"),
        settings=_told(config, subject),
        features=real.space.name,
        judge=real.judge_space.name,
        reference=config.reference,
        split_digest=split.digest,
        num_unseen=len(real.unseen_ids),
        num_learnt=len(real.learnt_ids),
        floor=measure_floor(by, len(drawn[0])),
        sets=[*extra, *(_others(config, subject, real, by, tell)), *(f for f, _ in found)],
        attributes=(),
        pairs=judge_pairs(generator, drawn, real, config.segmenter),
        bridge=bridge,
        autoencoder=autoencoder,
        expert_val_accuracy=by.expert_val_accuracy,
        notes=[*notes, *unranked, *_notes(config, generator, drawn[0], real, by)],
    )
    sheets = _sheets(drawn[0], real, found[0][1])
    if config.attributes and generator.method == "text":
        figures, shown = judge_attributes(
            generator,
            real,
            config.generate,
            per_value=config.attributes,
            report=partial(_tell_batch, tell, "attributes"),
        )
        report = replace(report, attributes=figures)
        sheets |= attribute_sheet(figures, shown)
    return Judged(report=report, sheets=sheets)


def open_judgement(
    config: JudgeConfig,
    generator: Generator,
    dataset: RealDataset,
    split: Split,
    *,
    cache: ArrayCache,
    tell: Tell | None = None,
) -> tuple[Measures, dict[str, tuple[str, ...]], list[str]]:
    """Return what measures a generator; class as drawn -> real labels; and what is to be said.

    Raises:
        ConfigError, DataError, ModelError: see `judge`.
    """
    space = load_feature_space(config.features or _found(generator))
    judge_space = load_feature_space(config.judge_features) if config.judge_features else space
    classes, notes = _classes(config, generator, dataset)
    real = open_real_sets(
        generator,
        dataset,
        split,
        part=config.part,
        classes=classes,
        spaces=(space, judge_space),
        cache=cache,
        tell=tell,
    )
    folder = config.expert or _aligned(generator)
    expert, known = load_expert(folder) if folder else (None, None)
    by = Measures(
        real=real,
        reference=config.reference,
        per_class=config.reference_per_class,
        perceptual=load_perceptual(config.perceptual) if config.perceptual else None,
        expert=expert,
        expert_val_accuracy=known.val_accuracy if known else None,
    )
    return by, classes, notes


_TOLD = {
    *("num_images", "guidance_scale", "num_inference_steps", "scheduler", "seed"),
    *("dtype", "options"),
}


def _told(config: JudgeConfig, subject: Subject) -> Mapping[str, object]:
    """Return how the images were drawn: their settings, or which of a catalog they are."""
    if subject.published is not None:
        return {"samples where": subject.published[1]}
    return config.generate.model_dump(mode="json", include=_TOLD)


def _aligned(generator: Generator) -> Path | None:
    """Return the folder of the expert that led the training, where it still lies there."""
    told = generator.manifest.get("config", {}).get("expert")
    folder = Path(told) if isinstance(told, str) else None
    return folder if folder is not None and (folder / NOTES).is_file() else None


def _found(generator: Generator) -> Path:
    return find_extractor(BACKBONE, use="vector", generator=generator.folder)


def _classes(
    config: JudgeConfig, generator: Generator, dataset: RealDataset
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return class as drawn -> labels of its real images, and what is to be said of others."""
    labels = config.generate.options.get("labels", {})
    names = tuple(config.generate.classes) or generator.class_names
    classes = {name: tuple(labels.get(name, (name,))) for name in names}
    known = {name: own for name, own in classes.items() if set(own) & set(dataset.class_names)}
    if not known:
        own = ", ".join(dataset.class_names)
        return classes, [f"None of {', '.join(names)} is among the real classes ({own}):"
                         " all images are compared as one class."]  # fmt: skip
    notes = []
    if absent := sorted(set(classes) - set(known)):
        notes.append(f"Not judged, as no real image is of them: {', '.join(absent)}.")
    drawn = {label for own in known.values() for label in own}
    if left := sorted(set(dataset.class_names) - drawn):
        notes.append(f"Real images of classes that are not drawn are left out: {', '.join(left)}.")
    return known, notes


def _drawn(
    config: JudgeConfig,
    subject: Subject,
    real: RealSets,
    names: tuple[str, ...],
    dataset: RealDataset,
    split: Split,
    tell: Tell,
) -> list[ImageSet]:
    """Return the sets to judge, all that was drawn the last of them."""
    if subject.published is not None:
        return read_sets(*subject.published, subject.generator)
    generator = subject.generator
    chosen = settings_for(config.generate, generator, names)
    references = References(dataset=dataset, split=split)
    report = partial(_tell_batch, tell, generator.name)
    return [
        draw_set("drawn", generator, chosen, references=references, cache=real.cache, report=report)
    ]


def settings_for(
    config: GenerateConfig, generator: Generator, names: tuple[str, ...]
) -> GenerateConfig:
    """Return the settings for the classes that are judged, with the generator's prompts.

    Raises:
        ConfigError: no seed, or see `with_classes`.
    """
    if isinstance(config.classes, Mapping) and config.classes:
        classes = {name: config.classes[name] for name in names}
    else:
        prompts = with_classes(config.model_copy(update={"classes": {}}), generator).prompts
        classes = {name: prompts[name] for name in names if name in prompts} or dict(prompts)
    if config.seed is None:
        raise ConfigError("generate.seed is null", remedy="Set it: figures are of one seed")
    return config.model_copy(update={"classes": classes, "max_tries": 1})


def _others(
    config: JudgeConfig, subject: Subject, real: RealSets, by: Measures, tell: Tell
) -> list[SetFigures]:
    """Return the figures of the generators beside, in the classes of the first where they can."""
    found = []
    for each in subject.beside:
        wanted = set(real.called.values())
        names = tuple(name for name in each.class_names if name in wanted)
        plain = config.generate.model_copy(update={"options": {}, "method": None})
        chosen = settings_for(plain, each, names or each.class_names)
        if each.size_px != real.size_px:
            raise ConfigError(
                f"{each.name!r} draws {each.size_px} px, {subject.generator.name!r}"
                f" {real.size_px} px",
                remedy="Set a generator of the same size beside",
            )
        report = partial(_tell_batch, tell, each.name)
        drawn = draw_set(each.name, each, chosen, cache=real.cache, report=report)
        found.append(measure(drawn, by)[0])
    return found


def _tell_batch(tell: Tell, name: str, done: int, of: int) -> None:
    tell(f"{name}: batch {done} of {of}")


def _bridge(
    config: JudgeConfig,
    generator: Generator,
    whole: ImageSet,
    drawn: list[ImageSet],
    by: Measures,
) -> tuple[BridgeFigures | None, list[ImageSet], list[str]]:
    """Return a bridge's figures, its deepest images to be judged as drawn of their targets, notes.

    Where nobody knows both sides, as between two labs' images, all that it drew is judged instead.
    """
    if not whole.facts or whole.facts[0].get("bridge_depth") is None:
        return None, drawn, []
    real, grader = by.real, _grader(by)
    if strange := sorted(ends_of(whole) - set(grader.class_names)):
        told = f"the {grader.name} knows no {strange[0]!r}: --set expert=FOLDER names one of both"
        return None, drawn, [f"Not measured along the way, as {told}."]
    found = progressions(whole, grader)
    directions = direction_figures(found)
    images = real.images(real.unseen_ids)
    domains = domains_of(generator)
    own = np.array(real.unseen.labels)
    between = [
        judge_between(images, real.unseen.labels, grader, each.source, each.target)
        for each in directions
    ]
    trips = [
        trip
        for name in dict.fromkeys(each.source for each in directions)
        if config.round_trips
        for trip in round_trips(
            domains[name],
            images[own == name][: config.round_trip_images],
            steps=config.round_trips,
            corrections=config.corrections,
        )
    ]
    figures = BridgeFigures(
        grader=grader.name,
        directions=directions,
        between=[each for each in between if each is not None],
        trips=trips,
        evaluations=mean_of([each.evaluations for each in found]),
    )
    return figures, [whole.take([each.rows[-1] for each in found], "deepest")], []


def _grader(by: Measures) -> Grader:
    """Return who grades progressions: the expert, or without one the judge of unseen images."""
    if by.expert is not None:
        names = tuple(by.expert.spec.class_names)
        return Grader(
            name="expert", class_names=names, probabilities=partial(probabilities, by.expert)
        )
    known = by.real.judged
    fitted = fit_judge(known.turns, known.labels, cache=by.real.cache)

    def seen(images: Images) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        logits = fitted.logits(by.real.turns(images, by.real.judge_space))
        found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = softmax(logits, axis=1)
        return found.astype(np.float64)

    return Grader(name="judge", class_names=fitted.class_names, probabilities=seen)


def _returned(
    config: JudgeConfig, generator: Generator, by: Measures
) -> tuple[list[SetFigures], AutoencoderFigures | None]:
    if not config.autoencoder:
        return [], None
    real = by.real
    images = real.images(real.unseen_ids)
    back = real.cache.get(
        ["returned", generator.model_id, real.dataset.fingerprint, real.size_px, real.unseen_ids],
        lambda: round_trip(autoencoder_of(generator), images),
    )
    shown = ImageSet(name="unseen, by autoencoder", images=back, labels=real.unseen.labels)
    return [measure(shown, by)[0]], autoencoder_figures(back, images)


def _notes(
    config: JudgeConfig, generator: Generator, drawn: ImageSet, real: RealSets, by: Measures
) -> list[str]:
    labels = list(dict.fromkeys(drawn.labels))
    known = set(labels) <= set(real.called.values())
    called = real.called if known else dict.fromkeys(real.dataset.class_names, "all")
    shown = drawn.labels if known else ["all"] * len(drawn)
    look = real.dataset.look(real.size_px, real.unseen_ids, called=called)
    notes = []
    if line := scale_line(look, generator.drawn(drawn.images, shown)):
        notes.append(f"{line}.")
    if not real.learnt_ids:
        notes.append(
            "It learnt from none of these real images, as far as it says: no copies are sought."
        )
    if by.perceptual is None:
        notes.append("LPIPS is not measured: --set perceptual=FILE names its weights.")
    if drawn.masks is not None and config.segmenter is None:
        notes.append("Whether masks fit is not measured: --set segmenter=FOLDER, see `factory"
                     " segmenter`.")  # fmt: skip
    return notes


def _sheets(drawn: ImageSet, real: RealSets, near: Mapping[str, Nearest]) -> dict[str, bytes]:
    """Return pictures by caption: real beside drawn, and the closest to what was learnt."""
    rows, labels = {}, np.array(drawn.labels)
    for name in sorted(set(drawn.labels)):
        own = [i for i, label in zip(real.unseen_ids, real.unseen.labels, strict=True)
               if label == name or name not in real.unseen.labels]  # fmt: skip
        shown = real.images(own[:SHOWN])
        rows[f"{name}: unseen real | drawn"] = beside(shown, drawn.images[labels == name][:SHOWN])
    sheets = {"Unseen real images beside drawn ones": sheet_of(rows)}
    closest = {}
    for space, found in near.items():
        order = found.distance.argsort()[:SHOWN]
        stored = real.images([real.learnt_ids[i] for i in found.position[order]])
        told = ", ".join(f"{distance:.3g}" for distance in found.distance[order])
        closest[f"{space}: distances {told}"] = pairs(drawn.images[order], stored)
    if closest:
        sheets["The drawn images nearest to learnt ones, each beside its own"] = sheet_of(closest)
    return sheets
