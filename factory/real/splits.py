"""Splits of real images: grouped, stratified, seeded, made once, known by their digest."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from factory.atomic import write_text, writing
from factory.digest import digest
from factory.errors import DataError

PARTS = ("train", "val", "test")
Classes = Mapping[str, Counter[str]]
"""Group -> how many images of each class it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which real image is in which part. Ids are sorted; a group is never divided.

    `dataset` is the fingerprint of the `RealDataset` that was split, `digest` names the split.
    """

    dataset: str
    seed: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest of everything above: what a generator's `factory.json` and every row record."""
        return digest(asdict(self))

    def part_of(self, image_id: str) -> str:
        """Return 'train', 'val' or 'test'.

        Raises:
            DataError: the id is in no part.
        """
        for part in PARTS:
            if image_id in getattr(self, part):
                return part
        raise DataError(
            f"image {image_id!r} is in no part of split {self.digest}",
            remedy="Split the dataset that holds this image, or correct the id",
        )

    def save(self, path: Path) -> None:
        """Write the split as JSON with its digest (atomically).

        Raises:
            OutputError: `path` cannot be written.
        """
        with writing(path):
            write_text(path, json.dumps({**asdict(self), "digest": self.digest}, indent=1) + "\n")


def load_split(path: Path) -> Split:
    """Read a split written by `Split.save` and check its digest.

    Raises:
        DataError: missing, not a split, or edited after it was written.
    """
    try:
        stored = json.loads(Path(path).read_text())
        recorded = stored.pop("digest")
        split = Split(
            dataset=stored.pop("dataset"),
            seed=stored.pop("seed"),
            **{part: tuple(stored.pop(part)) for part in PARTS},
        )
        if stored:
            raise ValueError(f"unknown key {next(iter(stored))!r}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is not a readable split file ({error})",
            remedy="Write one with `factory real split URI --out split.json`",
        ) from error
    if split.digest != recorded:
        raise DataError(
            f"{path} was changed after it was made: digest {split.digest}, recorded {recorded}",
            remedy="Restore the file, or make a new split under a new name",
        )
    return split


def check_dataset(split: Split, dataset: str) -> None:
    """Check that `split` was made for the dataset with this fingerprint.

    Raises:
        DataError: it was made for another one.
    """
    if split.dataset != dataset:
        raise DataError(
            f"the split was made for dataset {split.dataset}, this one is {dataset}",
            remedy="Use the split of this dataset, or make a new one; columns and masks that were"
            " chosen then are to be chosen again (--group, --masks, or PATH?group=x&masks=object)",
        )


def verify_split(split: Split, *, dataset: str, ids: Sequence[str], groups: Sequence[str]) -> None:
    """Check that `split` divides exactly this dataset and that no group crosses a border.

    Raises:
        DataError: another dataset, missing or unknown ids, an id twice, or a divided group.
    """
    check_dataset(split, dataset)
    placed = Counter(image_id for part in PARTS for image_id in getattr(split, part))
    odd = sorted(i for i, n in placed.items() if n > 1) or sorted(set(placed) ^ set(ids))
    if odd:
        raise DataError(
            f"split and dataset disagree on {len(odd)} ids, the first is {odd[0]!r}",
            remedy="Make a new split of this dataset",
        )
    where = {image_id: part for part in PARTS for image_id in getattr(split, part)}
    parts_of_group: defaultdict[str, set[str]] = defaultdict(set)
    for image_id, group in zip(ids, groups, strict=True):
        parts_of_group[group].add(where[image_id])
    for group, parts in parts_of_group.items():
        if len(parts) > 1:
            raise DataError(
                f"group {group!r} lies in {sorted(parts)}",
                remedy="Make a new split: a group (patient, slide, duplicate) stays in one part",
            )


def make_split(
    *,
    dataset: str,
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> Split:
    """Divide images into train, val and test: whole groups, classes in proportion.

    A part that gets no group in proportion, of six patients say, is given the one that fits best;
    one that gets none of a class, a group of it from a part that keeps two.

    Args:
        dataset: fingerprint of the dataset.
        ids, labels, groups: one entry per image.
        fractions: share of images per part, `{"train": .8, "val": .1, "test": .1}`.
        seed: changes which groups go where; equal inputs and seed give an equal split.

    Raises:
        DataError: fractions outside [0, 1] or of another sum than 1, or a part that should hold
            images got none.
    """
    inside = all(0 <= share <= 1 for share in fractions.values())  # NaN is not
    if set(fractions) - set(PARTS) or not inside or abs(sum(fractions.values()) - 1) > 1e-9:
        raise DataError(
            f"fractions {dict(fractions)} must name {PARTS}, lie in 0 .. 1 and sum to 1",
            remedy="Write for example train=0.8,val=0.1,test=0.1",
        )
    shares = [fractions.get(part, 0.0) for part in PARTS]
    counts = _classes_of(labels, groups)
    bin_of = _spread_groups(counts, shares, seed)
    _fill_empty(bin_of, counts, shares, seed)
    _show_classes(bin_of, counts, shares, seed)
    parts = {
        part: tuple(sorted(i for i, g in zip(ids, groups, strict=True) if bin_of[g] == number))
        for number, part in enumerate(PARTS)
    }
    empty = [part for part in PARTS if fractions.get(part, 0) > 0 and not parts[part]]
    if empty:
        raise DataError(
            f"no group is left for {empty[0]} ({len(set(groups))} groups in all)",
            remedy="Give more groups, or ask for fewer parts, e.g. --fractions train=0.5,test=0.5",
        )
    return Split(dataset=dataset, seed=seed, **parts)


def make_folds(
    *,
    dataset: str,
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    k: int,
    seed: int,
) -> list[Split]:
    """Return `k` splits: fold i tests on part i, validates on part i+1, trains on the rest.

    Where no group holds two images and no class fewer than `k`, the parts are those of
    scikit-learn's `StratifiedKFold(k, shuffle=True, random_state=seed)` over the sorted ids.

    Raises:
        DataError: k < 3 or fewer groups than folds.
    """
    if k < 3 or k > len(set(groups)):
        raise DataError(
            f"k = {k} folds need 3 <= k <= {len(set(groups))} groups",
            remedy="Choose another k",
        )
    bin_of = _folds_of_groups(ids, labels, groups, k, seed)
    members = [
        [i for i, g in zip(ids, groups, strict=True) if bin_of[g] == number] for number in range(k)
    ]
    return [
        Split(
            dataset=dataset,
            seed=seed,
            train=tuple(
                sorted(i for j in range(k) if j not in (fold, (fold + 1) % k) for i in members[j])
            ),
            val=tuple(sorted(members[(fold + 1) % k])),
            test=tuple(sorted(members[fold])),
        )
        for fold in range(k)
    ]


def n_shot(
    split: Split, *, labels: Mapping[str, str], shots: int | Mapping[str, int], seed: int
) -> dict[str, tuple[str, ...]]:
    """Return `shots` training ids per class, drawn by `seed` from the train part only.

    `shots`: of each class, or by class name; of a class that is not named all.

    Raises:
        DataError: a class with fewer than `shots` training images, or shots < 1; a name of no
            class.
    """
    by_class: defaultdict[str, list[str]] = defaultdict(list)
    for image_id in split.train:
        by_class[labels[image_id]].append(image_id)
    if unknown := sorted(set(shots) - set(by_class)) if isinstance(shots, Mapping) else []:
        raise DataError(
            f"shots of class {unknown[0]!r} asked, which has no image in the train part",
            remedy=f"Its classes are {', '.join(sorted(by_class))}",
        )
    asked = {name: shots_of_class(shots, name) or len(ids) for name, ids in by_class.items()}
    for name, members in sorted(by_class.items()):
        if not 1 <= asked[name] <= len(members):
            raise DataError(
                f"{asked[name]} shots of class {name!r} asked, its train part has {len(members)}"
                " images",
                remedy=f"Ask for 1 to {min(map(len, by_class.values()))} shots, or leave this class"
                " out",
            )
    return {
        name: tuple(sorted(sorted(members, key=lambda i: digest(["shot", seed, i]))[: asked[name]]))
        for name, members in sorted(by_class.items())
    }


def shots_of_class(shots: int | Mapping[str, int] | None, name: str) -> int | None:
    """Return how many images of a class are asked for; None: all."""
    return shots.get(name) if isinstance(shots, Mapping) else shots


def _folds_of_groups(
    ids: Sequence[str], labels: Sequence[str], groups: Sequence[str], k: int, seed: int
) -> dict[str, int]:
    if len(set(groups)) < len(groups) or min(Counter(labels).values()) < k:
        return _spread_groups(_classes_of(labels, groups), [1 / k] * k, seed, level=True)
    from sklearn.model_selection import StratifiedKFold

    rows = sorted(zip(ids, labels, groups, strict=True))
    folds = StratifiedKFold(k, shuffle=True, random_state=seed % 2**32)
    parts = folds.split(rows, [label for _, label, _ in rows])
    return {rows[row][2]: number for number, (_, part) in enumerate(parts) for row in part}


def _classes_of(labels: Sequence[str], groups: Sequence[str]) -> Classes:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        counts[group][label] += 1
    return counts


def _totals(counts: Classes) -> Counter[str]:
    """Return how many images of each class all groups hold."""
    found = Counter[str]()
    for held in counts.values():
        found.update(held)
    return found


def _spread_groups(
    counts: Classes,
    shares: Sequence[float],
    seed: int,
    *,
    level: bool = False,
) -> dict[str, int]:
    """Assign every group to a bin: largest groups first, each to the bin that lacks it most.

    A bin's lack counts per class, relative to that class, so that rare classes are spread too.
    Ties fall by the order that the seed gives to groups, never by input order; with `level`, to
    the bin that holds fewest images of all.
    """
    totals = _totals(counts)
    held = [Counter[str]() for _ in shares]
    order = sorted(counts, key=lambda g: (-sum(counts[g].values()), digest(["group", seed, g])))
    bin_of = {}
    for group in order:

        def lack(number: int, group: str = group) -> tuple[float, int]:
            lacking = sum(
                n * (shares[number] - held[number][label] / totals[label])
                for label, n in counts[group].items()
            )
            return lacking, -held[number].total() if level else 0

        best = max((b for b in range(len(shares)) if shares[b] > 0), key=lack)
        held[best].update(counts[group])
        bin_of[group] = best
    return bin_of


def _fill_empty(
    bin_of: dict[str, int], counts: Classes, shares: Sequence[float], seed: int
) -> None:
    """Move a group into every bin that wants images and has none, while another bin has two.

    It is one whose classes all stay where it comes from, if there is one; of these, one that
    shows the bin most classes; of these, the one whose size is nearest to the bin's share.
    """
    images = _totals(counts).total()
    for number, share in enumerate(shares):
        if share == 0 or number in bin_of.values():
            continue
        sizes = Counter(bin_of.values())

        def cost(group: str, share: float = share) -> tuple[int, int, float, str]:
            rest = [g for g in counts if bin_of[g] == bin_of[group] and g != group]
            lost = counts[group].keys() - {label for g in rest for label in counts[g]}
            misfit = abs(counts[group].total() - share * images)
            return len(lost), -len(counts[group]), misfit, digest(["group", seed, group])

        if spare := [group for group in counts if sizes[bin_of[group]] > 1]:
            bin_of[min(spare, key=cost)] = number


def _show_classes(
    bin_of: dict[str, int], counts: Classes, shares: Sequence[float], seed: int
) -> None:
    """Move a group into every bin that lacks its class, from one that keeps two of each of its.

    Of twelve embryos, six of each grade, a bin of an eighth gets one in proportion: of one grade.
    """
    totals = _totals(counts)
    for number, share in enumerate(shares):
        for label in sorted(totals) if share else ():
            if any(counts[g][label] for g, own in bin_of.items() if own == number):
                continue
            held = Counter((own, name) for g, own in bin_of.items() for name in counts[g])
            spare = [
                g
                for g, own in bin_of.items()
                if counts[g][label] and all(held[own, name] > 2 for name in counts[g])
            ]

            def misfit(group: str, share: float = share, label: str = label) -> tuple[float, str]:
                away = abs(counts[group].total() - share * totals[label])
                return away, digest(["group", seed, group])

            if spare:
                bin_of[min(spare, key=misfit)] = number
