"""Loads what the trainings of a study work on: every image once, at the learner's size."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from catalog import Catalog
from factory.arrays import Images, Masks
from factory.digest import digest
from factory.evaluate.arms import Manifest, pasted_of, source_id
from factory.evaluate.config import MaskProbe, Probe, SegmenterLearner
from factory.evaluate.derived import pasted
from factory.evaluate.pictures import Gathering, extended
from factory.evaluate.synthetic import read_drawn
from factory.evaluate.units import Material, Unit
from factory.models.pair_codec import class_index_array
from factory.real.dataset import RealDataset
from factory.real.mask_values import found_values
from factory.terminal import Pace, Tell

_READ_AT_ONCE = 256
_PASTED_AT_ONCE = 32
NO_WEIGHTS = (
    "no weights of a pretrained backbone were found: the probe looks at colours and edges alone,"
    " which is weak; see docs/backbones.md for what to take and where it belongs"
)


def study_material(
    units: Sequence[Unit],
    dataset: RealDataset,
    catalog: Catalog | None,
    *,
    sources: Mapping[str, RealDataset] | None = None,
    folder: Path | None = None,
    gpus: float = 0.0,
    tell: Tell | None = None,
) -> Material:
    """Return every image that trainings of one learner need, and masks if it is a segmenter.

    Images of `sources` join, which some arms take; a probe's features are looked up or computed,
    with `gpus` of Ray or, of 0, on what this process has.
    More images than memory should hold lie in a file of `folder`, until `Material.discard`.

    Raises:
        OutputError: it cannot be written.
        DataError: a real image that cannot be read, or an image without the mask it needs.
        CatalogError: a file of the catalog that cannot be read.
    """
    learner = units[0].learner
    every = {row.id: row for unit in units for row in unit.manifest.rows}
    held = {i for unit in units for i in (*unit.val, *unit.test)}
    real = sorted(held | {i for i, row in every.items() if row.is_own})
    drawn = sorted(i for i, row in every.items() if row.synthetic)
    foreign = {i for i, row in every.items() if row.made in ("source", "unlabelled")}
    size_px, values = learner.size_px, tuple[int, ...]()
    if isinstance(learner, SegmenterLearner | MaskProbe):
        values = learner.mask_values or found_values(dataset, real)
    parts = [read_real(dataset, real, size_px, values)]
    if catalog is not None and drawn:
        parts.append(read_drawn(catalog, drawn, size_px, masks=bool(values)))
    for name, source in (sources or {}).items():
        own = {i: source_id(name, i) for i in source.ids if source_id(name, i) in foreign}
        parts.append(read_real(source, list(own), size_px, values, names=own))
    count = len(real) + len(drawn) + len(foreign)
    images = Gathering(count, (size_px, size_px, 3), folder)
    masks = Gathering(count * bool(values), (size_px, size_px), folder)
    position: dict[str, int] = {}
    for ids, shown, shown_masks in chain.from_iterable(parts):
        position |= {i: len(position) + n for n, i in enumerate(ids)}
        images.add(shown)
        if shown_masks is not None:
            masks.add(shown_masks)
    material = Material(
        class_names=units[0].manifest.class_names,
        images=images.done(),
        position=position,
        labels={i: dataset.labels[dataset.index_of(i)] for i in real},
        groups={i: dataset.groups[dataset.index_of(i)] for i in real},
        masks=masks.done(),
        num_mask_classes=len(values),
    )
    pastes = sorted(i for i, row in every.items() if row.made == "pasted")
    if pastes:
        material = with_pasted(material, pastes)
    manifests = list({unit.manifest.digest: unit.manifest for unit in units}.values())
    if isinstance(learner, Probe):
        return of_probe(material, learner, manifests, held, gpus=gpus, tell=tell)
    if isinstance(learner, MaskProbe):
        return with_equations(material, learner, manifests, sorted(held), tell=tell)
    return material


def with_pasted(material: Material, ids: Sequence[str]) -> Material:
    """Return the material with pairs in which one image's object lies in another's."""
    images, masks = list[Images](), list[Masks]()
    for row_id in ids:
        giver, taker, number = pasted_of(row_id)
        one, other = (material.rows([i]) for i in (giver, taker))
        found = pasted(
            (material.images[one], material.masks[one]),
            (material.images[other], material.masks[other]),
            number=number,
        )
        images.append(found[0])
        masks.append(found[1])
    position = {**material.position, **{i: len(material.position) + n for n, i in enumerate(ids)}}
    return replace(
        material,
        images=extended(material.images, images),
        masks=extended(material.masks, masks),
        position=position,
    )


def read_real(
    dataset: RealDataset,
    ids: Sequence[str],
    size_px: int,
    values: Sequence[int],
    *,
    names: Mapping[str, str] | None = None,
) -> Iterator[tuple[list[str], Images, Masks | None]]:
    """Yield real images some at a time: ids, or their `names`; images, and masks of these values.

    Raises:
        DataError: an image that cannot be read, or one without the mask it needs.
    """
    for start in range(0, len(ids), _READ_AT_ONCE):
        chunk, masks = list(ids[start : start + _READ_AT_ONCE]), None
        if values:
            masks = class_index_array(dataset.mask_array(size_px, chunk), values, names=chunk)
        yield [names[i] for i in chunk] if names else chunk, dataset.array(size_px, chunk), masks


def with_equations(
    material: Material,
    probe: MaskProbe,
    manifests: Sequence[Manifest],
    held: Sequence[str],
    *,
    tell: Tell | None = None,
) -> Material:
    """Return the material with what a probe for masks works on.

    Args:
        material: images and masks.
        probe: encoder and views.
        manifests: of its arms.
        held: ids of val and test images.
        tell: gets lines to show.

    Raises:
        ConfigError: see `encoder_of`.
        ModelError: the same.
    """
    from factory.evaluate.mask_probe import Dense, Equations, encoder_of, equations_of, maps_of

    maps = encoder_of(probe)

    def found(
        ids: Sequence[str], turns: int, *, tell: Tell | None = None, once: bool = False
    ) -> list[list[Equations]]:
        at = material.rows(ids)
        return equations_of(
            maps,
            material.images[at],
            material.masks[at],
            classes=material.num_mask_classes,
            turns=turns,
            tell=tell,
            known_as=None if once else probe.model_dump_json(),
        )

    rows = {row.id: row for manifest in manifests for row in manifest.rows}
    equations: dict[str, list[Equations]] = {}
    for others, turns in ((False, probe.turns), (True, probe.drawn_turns)):
        own = [i for i, row in rows.items() if row.made != "pasted" and row.is_own is not others]
        equations |= dict(zip(own, found(own, turns, tell=tell), strict=True))
    pastes = {m.digest: [row for row in m.rows if row.made == "pasted"] for m in manifests}
    views = {m.digest: probe.drawn_turns if m.augment else 1 for m in manifests}
    pace, done = Pace(sum(map(len, pastes.values())), "pasted pairs looked at", tell), 0
    summed: dict[str, Equations] = {}
    for name, own_rows in pastes.items():
        for start in range(0, len(own_rows), _PASTED_AT_ONCE):
            pace(done)
            chunk = own_rows[start : start + _PASTED_AT_ONCE]
            each = found([row.id for row in chunk], views[name], once=True)
            for row, own_views in zip(chunk, each, strict=True):
                total = summed.get(name) or Equations.none(*own_views[0].aim.shape)
                summed[name] = total.added(own_views, row.weight)
            done += len(chunk)
    dense = Dense(
        equations=equations,
        summed=summed,
        maps=maps_of(maps, material.images[material.rows(held)]),
        position={i: n for n, i in enumerate(held)},
    )
    return replace(material, dense=dense)


def of_probe(
    material: Material,
    probe: Probe,
    manifests: Sequence[Manifest],
    held: Set[str],
    *,
    gpus: float = 0.0,
    tell: Tell | None = None,
) -> Material:
    """Return the material with all that a probe looks at in these arms, and what it sees there.

    `held` are the images of val and test parts; `gpus` as in `study_material`.

    Raises:
        ConfigError, ModelError: see `with_features` and `with_derived`.
    """
    from factory.evaluate.derived import with_derived

    def shown(wanted: Callable[[Manifest], object]) -> dict[str, bool]:
        return {
            i: not row.is_own
            for manifest in manifests
            if wanted(manifest)
            for row in manifest.rows
            for i in manifest.shown_as(row)
        }

    def of_expert(name: str) -> set[str]:
        asks = [manifest for manifest in manifests if manifest.ways.expert == name]
        judged = {i for manifest in asks for own in held for i in manifest.judged_as(own)}
        return judged | shown(lambda manifest: manifest.ways.expert == name).keys()

    return with_features(
        with_derived(material, manifests, held),
        probe,
        shown(lambda _manifest: True),
        strong=shown(lambda manifest: manifest.strong).keys(),
        stained=shown(lambda manifest: manifest.ways.stain).keys(),
        asked={name: {*held, *of_expert(name)} for name in probe.experts},
        gpus=gpus,
        tell=tell,
    )


def with_features(
    material: Material,
    probe: Probe,
    rows: Mapping[str, bool],
    *,
    strong: Set[str] = frozenset(),
    stained: Set[str] = frozenset(),
    asked: Mapping[str, Set[str]] | None = None,
    gpus: float = 0.0,
    tell: Tell | None = None,
) -> Material:
    """Return the material with what a probe's backbone says of its images.

    Args:
        material: the images.
        probe: backbone and views.
        rows: whether a training image is drawn, or another lab's, by id; others are held out.
        strong: real images of which varied views are wanted too.
        stained: others of which views in other stains are wanted.
        asked: images that each of the probe's experts is asked about.
        gpus: as in `study_material`.
        tell: gets lines to show.

    Raises:
        ConfigError: see `open_backbone`.
        ModelError: the same.
    """
    from factory.evaluate.backbones import (
        COLOURS,
        expert_backbone,
        features_of,
        open_backbone,
        view_names,
    )

    backbone = open_backbone(probe, gpus=gpus)
    if tell is not None and probe.backbone is None and backbone.name == COLOURS:
        tell(NO_WEIGHTS)
    held = view_names(probe, turns=probe.tta)
    real, varied = (
        view_names(probe, turns=max(probe.turns, probe.tta), varied=n) for n in (0, probe.varied)
    )
    drawn = view_names(probe, turns=probe.drawn_turns)
    others = [
        f"stained{n}-{digest(probe.staining.model_dump(mode='json'))}" for n in range(probe.stained)
    ]

    def views_of(image_id: str) -> list[str]:
        if rows.get(image_id, False):
            return drawn + others if image_id in stained else drawn
        return varied if image_id in strong else real if image_id in rows else held

    ids = list(material.position)
    views = [views_of(i) for i in ids]
    look = partial(features_of, varying=probe.augmentation, staining=probe.staining, tell=tell)
    ends = np.cumsum([len(each) for each in views]).tolist()
    experts = {}
    for name, wanted in (asked or {}).items():
        own = [n for n, i in enumerate(ids) if i in wanted]
        asks = [views[n] for n in own]
        expert = expert_backbone(probe.experts[name], gpus=gpus)
        said = look(expert, material.images[own], asks)
        del expert  # and the GPU that it may hold
        each = np.split(said, np.cumsum([len(one) for one in asks])[:-1])
        experts[name] = dict(zip([ids[n] for n in own], each, strict=True))
    return replace(
        material,
        features=look(backbone, material.images, views),
        view_rows=dict(zip(ids, zip([0, *ends], ends, strict=False), strict=True)),
        experts=experts,
    )
