"""Two halves of a split's train part: for two judges that must not have learnt from each other."""

from factory.errors import DataError
from factory.real.dataset import RealDataset
from factory.real.duplicates import grouped
from factory.real.splits import Split, check_dataset, make_split

HALVES = ("first", "second")


def half_of_train(dataset: RealDataset, split: Split, half: str, *, seed: int) -> tuple[str, ...]:
    """Return the ids of one half of the train part: whole groups, classes in proportion.

    Args:
        dataset: that was split.
        split: its train part is halved.
        half: 'first' or 'second'; under one seed they share no image.
        seed: of the division.

    Raises:
        DataError: another dataset, another word, or a train part of one group.
    """
    check_dataset(split, dataset.fingerprint)
    if half not in HALVES:
        raise DataError(f"there is no half {half!r}", remedy=f"Choose of {', '.join(HALVES)}")
    known = zip(dataset.ids, dataset.labels, grouped(dataset), strict=True)
    train = set(split.train)
    rows = [row for row in known if row[0] in train]
    divided = make_split(
        dataset=dataset.fingerprint,
        ids=[image_id for image_id, _, _ in rows],
        labels=[label for _, label, _ in rows],
        groups=[group for _, _, group in rows],
        fractions={"train": 0.5, "val": 0.5},
        seed=seed,
    )
    return divided.train if half == HALVES[0] else divided.val
