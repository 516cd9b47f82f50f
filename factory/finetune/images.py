"""Which images a training learns from: of the train part, of the classes and shots that are asked.

Found before torch is imported: a typing error must not cost ten seconds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from factory.errors import ConfigError, DataError
from factory.real.duplicates import grouped
from factory.real.leaks import check_apart
from factory.real.splits import (
    Split,
    load_split,
    make_split,
    n_shot,
    shots_of_class,
    verify_split,
)

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset

SPLIT = "split.json"
FEW = 8
"""Images of a class below which a generator repeats them rather than learns the class."""


class Choice(Protocol):
    """What of a configuration decides which images are learnt from."""

    @property
    def only(self) -> tuple[str, ...]:
        """Classes; none: all."""

    @property
    def n_shot(self) -> int | Mapping[str, int] | None:
        """Images of each class; None: all."""

    @property
    def seed(self) -> int:
        """Draws them."""


def looks_at_no_label(config: Any) -> bool:
    """Return whether nobody tells the labels of the images, see `FinetuneConfig`."""
    return bool(getattr(config, "unlabelled", False))


def choose_images(dataset: "RealDataset", split: Split, config: Choice) -> tuple[str, ...]:
    """Return the ids to learn from: of the train part only, up to `n_shot` of each class if asked.

    `thin_classes` says which classes have fewer.

    Raises:
        ConfigError: a class that the dataset has not.
        DataError: a class without images in the train part, or a split that `check_apart` refuses.
    """
    if looks_at_no_label(config):
        check_apart(dataset, split)
        return split.train
    named = {*getattr(config, "classes", ()), *config.only}
    named |= set(config.n_shot) if isinstance(config.n_shot, Mapping) else set()
    if unknown := sorted(named - set(dataset.labels)):
        raise ConfigError(
            f"class {unknown[0]!r} is not in the dataset",
            remedy=f"Its classes are {', '.join(sorted(set(dataset.labels)))}",
        )
    check_apart(dataset, split)
    by_class = _train_part(dataset, split)
    wanted = config.only or tuple(sorted(set(dataset.labels)))
    if lacking := [name for name in wanted if name not in by_class]:
        raise DataError(
            f"class {lacking[0]!r} has no image in the train part",
            remedy=f"Choose of {', '.join(by_class) or 'another split'}, or leave it out"
            f" (--without {lacking[0]})",
        )
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    if config.n_shot is None:
        return tuple(i for i in split.train if labels[i] in wanted)
    chosen: list[str] = []
    for name in sorted(wanted):
        asked, members = shots_of_class(config.n_shot, name), by_class[name]
        if asked is None:
            chosen += members
            continue
        only, shots = replace(split, train=members), min(asked, len(members))
        chosen += n_shot(only, labels=labels, shots=shots, seed=config.seed)[name]
    return tuple(chosen)


def val_images(dataset: "RealDataset", split: Split, class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of the val part that are of these classes."""
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    return tuple(i for i in split.val if labels[i] in class_names)


def thin_classes(dataset: "RealDataset", split: Split, config: Choice) -> list[str]:
    """Return a line on every class that a training learns less of than was asked, or nothing."""
    if looks_at_no_label(config):
        return [f"{len(split.train)} images are learnt from, and none of their labels"]
    by_class, lines = _train_part(dataset, split), []
    for name in config.only or sorted(set(dataset.labels)):
        shots = shots_of_class(config.n_shot, name)
        found = len(by_class.get(name, ()))
        if shots is not None and found < shots:
            lines.append(
                f"{name}: {found} of the {shots} shots asked, its train part has no more"
                f" (--without leaves a class out)"
            )
        elif shots is None and found < FEW:
            lines.append(f"{name}: {found} images in the train part (--without leaves a class out)")
    return lines


def without_classes(config: Any, dataset: "RealDataset", names: Sequence[str]) -> Any:
    """Return `config` without these classes of the dataset; itself where none is named.

    Raises:
        ConfigError: a class that the dataset has not, or nothing is left.
    """
    known = sorted(set(dataset.labels))
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(
            f"--without {unknown[0]!r}: the dataset has no such class",
            remedy=f"Its classes are {', '.join(known)}",
        )
    if not names:
        return config
    if looks_at_no_label(config):
        raise ConfigError(
            "--without leaves out by label, and unlabelled: true looks at none",
            remedy="Leave --without out; what is drawn, `factory generate --set classes` says",
        )
    left = tuple(name for name in config.only or known if name not in names)
    if not left:
        raise ConfigError("--without leaves no class to train", remedy="Name fewer classes")
    return config.model_copy(update={"only": left})


def _train_part(dataset: "RealDataset", split: Split) -> dict[str, tuple[str, ...]]:
    """Return class -> its ids in the train part, classes without any left out."""
    labels, members = dict(zip(dataset.ids, dataset.labels, strict=True)), defaultdict(list)
    for image_id in split.train:
        members[labels[image_id]].append(image_id)
    return {name: tuple(members[name]) for name in sorted(members)}


def split_of_output(config: Any, dataset: "RealDataset", output: Path) -> Split:
    """Return the split in `output`, made by `config` if there is none: near-duplicates together.

    Raises:
        DataError: one that is not of this dataset, or divides a group.
    """
    path, groups = output / SPLIT, grouped(dataset)
    if path.exists():
        split = load_split(path)
    else:
        split = make_split(
            dataset=dataset.fingerprint,
            ids=dataset.ids,
            labels=dataset.labels,
            groups=groups,
            fractions=config.fractions,
            seed=config.seed,
        )
        split.save(path)
    verify_split(split, dataset=dataset.fingerprint, ids=dataset.ids, groups=groups)
    return split
