"""A plan: which request sits in which slot of which batch, computed, never listed.

A plan of a million images takes as much memory as a plan of ten: it holds the recipes and their
counts, and works out batch `i` when asked.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from factory.digest import digest
from factory.errors import ConfigError
from factory.sample.recipe import Recipe, Request


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
    """How many images of a recipe: indices 0 .. count - 1."""

    recipe: Recipe
    count: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Recipes with counts, in an order that keeps equal settings together."""

    quotas: tuple[Quota, ...]

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

    @cached_property
    def digest(self) -> str:
        """Names the plan: the same recipes and counts in any order are one plan."""
        return digest(sorted([q.recipe.digest, q.count] for q in self.quotas))

    def batch(self, index: int) -> Batch:
        """Return batch `index` (0 .. num_batches - 1) in O(log of the number of recipes).

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
        for index in range(self.num_batches) if indices is None else indices:
            yield self.batch(index)

    def _places(self, index: int) -> tuple["_Group", range]:
        """Return the settings group of a batch, and its requests' places within that group."""
        if not 0 <= index < self.num_batches:
            raise IndexError(f"batch {index} of {self.num_batches}")
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
        return Request(recipe=quota.recipe, index=place - self.ends[number] + quota.count)


def split_evenly(num_images: int, parts: int) -> list[int]:
    """Return `parts` counts that sum to `num_images` and differ by at most one."""
    base, rest = divmod(num_images, parts)
    return [base + (number < rest) for number in range(parts)]
