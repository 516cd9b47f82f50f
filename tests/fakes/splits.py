"""Splits of whole datasets."""

from factory.real.dataset import RealDataset
from factory.real.splits import Split, make_split


def split_of(dataset: RealDataset, *, seed: int = 0, **fractions: float) -> Split:
    """Divide `dataset`: `split_of(cells, train=0.6, val=0.2, test=0.2)`."""
    return make_split(
        dataset=dataset.fingerprint,
        ids=dataset.ids,
        labels=dataset.labels,
        groups=dataset.groups,
        fractions=fractions,
        seed=seed,
    )
