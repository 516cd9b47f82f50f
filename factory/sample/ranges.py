"""A rising sequence of integers kept as ranges: what a resumed run still has to draw."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class Ranges:
    """Rising integers as (start, stop) pairs: a few, however many integers there are.

    A killed run leaves gaps only where batches were in flight, so it sends each worker a handful
    of pairs instead of every batch index.
    """

    pairs: tuple[tuple[int, int], ...]

    @staticmethod
    def of(numbers: Iterable[int]) -> "Ranges":
        """Return the ranges of strictly rising `numbers`.

        Raises:
            ValueError: they do not rise.
        """
        pairs: list[tuple[int, int]] = []
        for number in map(int, numbers):
            if pairs and number < pairs[-1][1]:
                raise ValueError(f"{number} comes after {pairs[-1][1] - 1}")
            if pairs and number == pairs[-1][1]:
                pairs[-1] = (pairs[-1][0], number + 1)
            else:
                pairs.append((number, number + 1))
        return Ranges(tuple(pairs))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = bisect_right(self._ends, place)
        return self.pairs[number][1] - (self._ends[number] - place)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(stop - start for start, stop in self.pairs))
