"""A plan: which request sits in which slot of which batch, computed, never listed.

A plan of a million images takes as much memory as a plan of ten: it holds the recipes and their
counts, and works out batch `i` when asked.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from factory.digest import digest
from factory.errors import ConfigError
from factory.sample.recipe import Recipe, Request

HOPELESS = 100
"""Images of a recipe, none of them accepted, after which no more are tried: less than 3 % pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A fixed-shape group of requests: unit of sampling and of publication.

    `requests` may be fewer than `size`; the engine fills the rest of the shape with copies of the
    last request and throws their images away.
    """

    index: int
    size: int
    requests: tuple[Request, ...]


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many images of a recipe: indices first .. first + count - 1."""

    recipe: Recipe
    count: int
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Recipes with counts, in an order that keeps equal settings together.

    A run that draws on has several, one after another: the batches of each are numbered from
    `first_batch`, and its images of a recipe from `Quota.first`.
    """

    quotas: tuple[Quota, ...]
    first_batch: int = 0

    def __post_init__(self) -> None:
        """Check what would give one image two rows.

        Raises:
            ConfigError: a recipe twice, or a negative count.
        """
        names = [quota.recipe.digest for quota in self.quotas]
        if len(set(names)) != len(names):
            raise ConfigError("the plan holds one recipe twice", remedy="Merge their counts")
        if negative := [q.count for q in self.quotas if q.count < 0]:
            raise ConfigError(f"a count is negative: {negative[0]}", remedy="Ask for 0 or more")

    @property
    def num_images(self) -> int:
        """Requests in all."""
        return sum(quota.count for quota in self.quotas)

    @property
    def num_batches(self) -> int:
        """Batches in all; the last of each settings group may be padded."""
        return self._group_starts[-1]

    @property
    def indices(self) -> range:
        """The numbers of its batches."""
        return range(self.first_batch, self.first_batch + self.num_batches)

    @cached_property
    def digest(self) -> str:
        """Names the plan: the same recipes and counts in any order are one plan."""
        return digest(sorted([q.recipe.digest, q.count] for q in self.quotas))

    def batch(self, index: int) -> Batch:
        """Return batch `index`, one of `indices`, in O(log of the number of recipes).

        Raises:
            IndexError: no such batch.
        """
        group, places = self._places(index)
        return Batch(index=index, size=group.size, requests=tuple(group.request(p) for p in places))

    def batch_length(self, index: int) -> int:
        """Return how many requests batch `index` holds, without making them.

        Raises:
            IndexError: no such batch.
        """
        return len(self._places(index)[1])

    def batches(self, indices: Sequence[int] | range | None = None) -> Iterator[Batch]:
        """Yield the batches with these indices (default: all), one at a time."""
        for index in self.indices if indices is None else indices:
            yield self.batch(index)

    def _places(self, index: int) -> tuple["_Group", range]:
        """Return the settings group of a batch, and its requests' places within that group."""
        if index not in self.indices:
            raise IndexError(f"batch {index} of {self.indices}")
        index -= self.first_batch
        number = bisect_right(self._group_starts, index) - 1
        group = self._groups[number]
        first = (index - self._group_starts[number]) * group.size
        return group, range(first, min(first + group.size, group.ends[-1]))

    @cached_property
    def _groups(self) -> tuple["_Group", ...]:
        grouped: dict[tuple[object, ...], list[Quota]] = {}
        for quota in sorted(self.quotas, key=lambda q: q.recipe.digest):
            if quota.count:
                grouped.setdefault(quota.recipe.settings, []).append(quota)
        return tuple(_Group(tuple(quotas)) for quotas in grouped.values())

    @cached_property
    def _group_starts(self) -> tuple[int, ...]:
        sizes = [-(-group.ends[-1] // group.size) for group in self._groups]
        return (0, *accumulate(sizes))


class _Group:
    """Quotas that may share a batch, laid end to end."""

    def __init__(self, quotas: tuple[Quota, ...]) -> None:
        self.quotas = quotas
        self.size = quotas[0].recipe.batch_size
        self.ends = tuple(accumulate(quota.count for quota in quotas))

    def request(self, place: int) -> Request:
        number = bisect_right(self.ends, place)
        quota = self.quotas[number]
        place -= self.ends[number] - quota.count
        return Request(recipe=quota.recipe, index=quota.first + place)


def plan_further(
    wanted: Plan,
    found: Mapping[str, tuple[int, int]],
    *,
    first_batch: int,
    max_tries: int,
) -> Plan | None:
    """Return what is drawn on in place of refused images; None where there is nothing to draw.

    Of a recipe that lacks some of its number, as many more as it takes at the rate at which its
    images were accepted, up to `max_tries` times its number in all. It follows from what is
    published alone: a run that was killed plans the same again.

    Args:
        wanted: the run's first plan.
        found: recipe digest -> (drawn, accepted) of all earlier plans.
        first_batch: the number after their last batch.
        max_tries: 1 replaces nothing.
    """
    quotas = []
    for quota in wanted.quotas:
        drawn, accepted = found.get(quota.recipe.digest, (0, 0))
        lacking, left = quota.count - accepted, max_tries * quota.count - drawn
        if accepted == 0 and drawn >= HOPELESS:
            continue
        if lacking > 0 and left > 0:
            more = min(left, -(-lacking * drawn // max(accepted, 1)))
            quotas.append(Quota(recipe=quota.recipe, count=more, first=drawn))
    return Plan(quotas=tuple(quotas), first_batch=first_batch) if quotas else None


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
