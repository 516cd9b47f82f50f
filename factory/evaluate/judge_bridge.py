"""Judges a bridge run: what an expert sees along its progressions, beside unseen real images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from catalog.table import Catalog
from factory.errors import ConfigError
from factory.evaluate.bridge_figures import (
    BetweenFigures,
    DirectionFigures,
    Way,
    between_figures,
    direction_figures,
    mean_of,
)
from factory.evaluate.drawing import Order
from factory.evaluate.progressions import Progression, read_progressions
from factory.evaluate.round_trip import round_trips
from factory.finetune.latents import to_signed
from factory.measure.features import Images
from factory.measure.intervals import Estimate
from factory.models.domains import Domain, domains_of
from factory.models.expert_file import ExpertNotes
from factory.models.experts import Expert
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.field import scale_line
from factory.real.splits import Split, check_dataset
from factory.sample.engine import Engine
from factory.sample.methods.soft_labels import odds

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TripFigures:
    """Round trips of one domain's unseen real images; PSNR in dB, means over images."""

    domain: str
    steps: int
    corrections: int
    evaluations: int
    to_kept: Estimate
    """Against what the autoencoder keeps of the image."""
    to_real: Estimate
    """Against the image itself ..."""
    autoencoder: Estimate
    """... which the autoencoder alone reaches at best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeReport:
    """Everything that was measured of one run."""

    run_id: str
    model_id: str
    expert_val_accuracy: float
    directions: Sequence[DirectionFigures]
    between: Sequence[BetweenFigures]
    """By direction, where the real images have other classes than its two."""
    trips: Sequence[TripFigures]
    evaluations: Estimate
    """Of networks, per source and direction, as the rows say."""
    scale: str | None = None
    """What is said where objects look larger or smaller at the far end than in real images."""


def judge_progressions(found: Sequence[Progression], expert: Expert) -> list[DirectionFigures]:
    """Return the figures of every direction of a run, rejected images included.

    Raises:
        ConfigError: the expert knows a domain of them not.
        DataError: see `direction_figures`.
    """
    directions = dict.fromkeys((each.source, each.target) for each in found)
    return [
        direction_figures(
            *pair, [_way(each, expert) for each in found if (each.source, each.target) == pair]
        )
        for pair in directions
    ]


def judge_between(
    dataset: RealDataset, ids: Sequence[str], expert: Expert, source: str, target: str, size_px: int
) -> BetweenFigures:
    """Return where real images of all classes score, as the expert sees them at `size_px`.

    Raises:
        ConfigError: the expert does not know `source` or `target`.
    """
    label_of = dict(zip(dataset.ids, dataset.labels, strict=True))
    seen = probabilities(expert, dataset.array(size_px, list(ids)))
    scores = odds(seen, _column(expert, source), _column(expert, target))
    labels = np.array([label_of[image_id] for image_id in ids])
    return between_figures({n: scores[labels == n] for n in sorted(set(labels))}, source, target)


def judge_round_trips(
    domain: Domain, images: Images, *, steps: Sequence[int], corrections: Sequence[int]
) -> list[TripFigures]:
    """Return the figures of real images of a domain that go up and down again in it.

    Raises:
        DataError: fewer than two images.
    """
    order = Order(class_name=domain.class_name, prompt=domain.prompt, count=len(images))
    done = round_trips(
        Engine(domain.generator), order, images, steps=steps, corrections=corrections
    )
    return [
        TripFigures(
            domain=domain.name,
            steps=trip.steps,
            corrections=trip.corrections,
            evaluations=trip.evaluations,
            to_kept=mean_of(trip.to_kept.tolist()),
            to_real=mean_of(trip.to_real.tolist()),
            autoencoder=mean_of(done.autoencoder.tolist()),
        )
        for trip in done.trips
    ]


def judge_bridge(
    catalog: Catalog,
    run_id: str,
    generator: Generator,
    expert: tuple[Expert, ExpertNotes],
    dataset: RealDataset,
    split: Split,
    *,
    part: str = "test",
    steps: Sequence[int] = (10, 25, 50, 100),
    corrections: Sequence[int] = (0,),
    num_images: int = 32,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> BridgeReport:
    """Return the report of a bridge run.

    Args:
        catalog: holds the run.
        run_id: of a run of method bridge.
        generator: that of the run.
        expert: knows both domains by name; what it is asked, no row was chosen or labelled by,
            unless the run says so in its options.
        dataset: the real images.
        split: of `dataset`.
        part: 'val' or 'test', for round trips and in-between classes: nothing was trained on it.
        steps, corrections: of the round trips; empty steps: none are made.
        num_images: at most so many of each domain make the round trip.
        labels: domain -> labels of its real images, where it is not called as they are.

    Raises:
        CatalogError: the run has no bridged images.
        ConfigError: the expert does not know a domain.
        DataError: a split of other images, or too few to say anything.
    """
    check_dataset(split, dataset.fingerprint)
    found, ids = read_progressions(catalog, run_id), {"val": split.val, "test": split.test}[part]
    size = found[0].images.shape[1]
    directions, domains = judge_progressions(found, expert[0]), domains_of(generator)
    label_of = dict(zip(dataset.ids, dataset.labels, strict=True))
    trips = []
    for name in dict.fromkeys(each.source for each in found) if steps else ():
        of_domain = (labels or {}).get(name, (name,))
        own = [image_id for image_id in ids if label_of[image_id] in of_domain][:num_images]
        images = dataset.array(size, own)
        trips += judge_round_trips(domains[name], images, steps=steps, corrections=corrections)
    pairs = {(each.source, each.target) for each in directions}
    others = {label_of[image_id] for image_id in ids} - {name for pair in pairs for name in pair}
    return BridgeReport(
        run_id=run_id,
        model_id=generator.model_id,
        expert_val_accuracy=expert[1].val_accuracy,
        directions=directions,
        between=[
            judge_between(dataset, ids, expert[0], each.source, each.target, size)
            for each in directions
            if others
        ],
        trips=trips,
        evaluations=mean_of([each.evaluations for each in found]),
        scale=scale_at_the_end(generator, found, dataset, ids, labels or {}),
    )


def scale_at_the_end(
    generator: Generator,
    found: Sequence[Progression],
    dataset: RealDataset,
    ids: Sequence[str],
    labels: Mapping[str, Sequence[str]],
) -> str | None:
    """Return what is said where the deepest images are of another scale than their targets."""
    targets = {each.target for each in found}
    named = {own: name for name in targets for own in labels.get(name, (name,))}
    shown = [i for i in ids if dataset.labels[dataset.index_of(i)] in named]
    if not shown:
        return None
    deepest = np.stack([each.images[-1] for each in found])
    return scale_line(
        dataset.look(deepest.shape[1], shown, called=named),
        generator.drawn(deepest, [each.target for each in found]),
    )


@torch.inference_mode()
def probabilities(expert: Expert, images: Images) -> NDArray[np.float64]:
    """Return (N, classes), the expert's, of images (N, S, S, 3) uint8."""
    device = expert.mean.device
    found = [
        expert(to_signed(part.to(device))).softmax(1).double().cpu()
        for part in torch.split(torch.from_numpy(images), BATCH)
    ]
    table: NDArray[np.float64] = torch.cat(found).numpy()
    return table


def _way(each: Progression, expert: Expert) -> Way:
    seen, column = probabilities(expert, each.images), _column(expert, each.target)
    return Way(
        source_id=each.source_id,
        target_probability=seen[:, column],
        odds=odds(seen, _column(expert, each.source), column),
        target_is_seen=seen.argmax(1) == column,
        ssim=each.ssim,
        label=each.label,
        depth=each.depths,
    )


def _column(expert: Expert, name: str) -> int:
    names = expert.spec.class_names
    if name not in names:
        raise ConfigError(
            f"the expert knows no class {name!r}", remedy=f"It knows {', '.join(names)}"
        )
    return names.index(name)
