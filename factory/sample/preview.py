"""A look at a run before it starts: ten of its images, what gates say, time and cost of the whole.

Nothing is published. The images are those that the run will draw first of each recipe; batches are
smaller here, so that their last bits may differ.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.sheet import coloured
from factory.gate.verdict import status_of
from factory.measure.sheets import pairs, write_sheet
from factory.sample.batches import SampleActor
from factory.sample.drawn import Drawn
from factory.sample.plan import Batch, Plan, Ranges
from factory.sample.prepare import Run
from factory.sample.recipe import Request
from factory.sample.record import light_gates
from factory.sample.rows import encode_png
from factory.terminal import duration, rate

IMAGES = 10
PATIENCE_SECONDS = 10.0
"""A whole batch that will take longer is not drawn to be measured."""
ZOOM_PX = 128
"""Images are enlarged by a whole factor up to about this side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What ten images tell of a run. `reasons` holds an entry an image, empty: accepted."""

    classes: tuple[str, ...]
    reasons: tuple[tuple[str, ...], ...]
    seconds_per_image: float
    """Of a whole batch where one was measured, else of the small ones here."""
    bytes_per_image: float
    num_images: int
    price_per_hour: float | None = None

    @property
    def refused(self) -> int:
        """How many of the ten."""
        return sum(bool(own) for own in self.reasons)

    @property
    def seconds(self) -> float:
        """Of the whole run in one process, when nothing is drawn again."""
        return self.seconds_per_image * self.num_images

    def lines(self) -> Iterator[str]:
        """Yield what a person should know."""
        shown = len(self.classes)
        yield f"accepted {shown - self.refused} of {shown}"
        for name, own in zip(self.classes, self.reasons, strict=True):
            for reason in own:
                yield f"refused  {name}: {reason}"
        price, cost = self.price_per_hour, ""
        if price is not None:
            cost = f", cost {price * self.seconds / 3600:.2f} at {price:g} an hour"
        yield (
            f"the run  {self.num_images} images: about {duration(self.seconds)} in one process"
            f" ({rate(1 / self.seconds_per_image)} images/s),"
            f" {self.bytes_per_image * self.num_images / 2**20:.1f} MiB{cost}"
        )
        if self.refused:
            more = self.refused / shown
            yield f"refused ones are drawn anew as far as max_tries goes: up to {more:.0%} more"


def preview(run: Run, path: Path, *, price_per_hour: float | None = None) -> Preview:
    """Draw ten images of `run` in this process, write them as a sheet to `path` and tell of them.

    Raises:
        FactoryError: what the run itself would raise when it draws.
        OutputError: `path` cannot be written.
    """
    actor = SampleActor(run, Ranges.of([]))
    first, *rest = few(run.plan)
    found = [(first, actor.drawn(first))]  # with what is loaded once: not timed
    begun, count = time.monotonic(), 0
    for batch in rest or [first]:
        drawn, count = actor.drawn(batch), count + batch.size
        found += [(batch, drawn)] if rest else []
    each = (time.monotonic() - begun) / count
    whole = run.plan.batch(run.plan.first_batch)
    if whole.size > first.size and each * whole.size < PATIENCE_SECONDS:
        begun = time.monotonic()
        actor.drawn(whole)
        each = (time.monotonic() - begun) / whole.size
    judged = [reasons(run, batch, drawn) for batch, drawn in found]
    classes = [r.recipe.class_name for batch, _ in found for r in batch.requests]
    write_sheet(path, _rows(classes, [d for _, d in found]), zoom=_zoom(found[0][1].images))
    sizes = [len(encode_png(image)) for _, drawn in found for image in drawn.images]
    return Preview(
        classes=tuple(classes),
        reasons=tuple(own for each_batch in judged for own in each_batch),
        seconds_per_image=each,
        bytes_per_image=float(np.mean(sizes)),
        num_images=run.plan.num_images,
        price_per_hour=price_per_hour,
    )


def few(plan: Plan, count: int = IMAGES) -> list[Batch]:
    """Return `count` requests of a plan, spread over its recipes, in a batch for each setting."""
    quotas = [quota for quota in plan.quotas if quota.count]
    if len(quotas) > count:
        quotas = [quotas[n * len(quotas) // count] for n in range(count)]
    rounds = range(max(quota.count for quota in quotas))
    in_turn = (
        Request(recipe=quota.recipe, index=quota.first + number)
        for number in rounds
        for quota in quotas
        if number < quota.count
    )
    by_settings: dict[tuple[object, ...], list[Request]] = {}
    for request in islice(in_turn, count):
        by_settings.setdefault(request.recipe.settings, []).append(request)
    size = max(map(len, by_settings.values()))
    return [
        Batch(index=number, size=size, requests=tuple(requests))
        for number, requests in enumerate(by_settings.values())
    ]


def reasons(run: Run, batch: Batch, drawn: Drawn) -> list[tuple[str, ...]]:
    """Return for each image why gates refuse it; nothing where they do not."""
    classes = [request.recipe.class_name for request in batch.requests]
    said = [gate.open()(drawn.images, drawn.masks, classes) for gate in light_gates(run.config)]
    told = []
    for slot in range(len(drawn)):
        verdicts = [v for own in said for v in own[slot]] + list(drawn.verdicts_of(slot))
        refused = status_of(verdicts) != "accepted"
        told.append(tuple(f"{v.gate}: {v.reason}" for v in verdicts if not v.passed and refused))
    return told


def _rows(classes: Sequence[str], drawn: Sequence[Drawn]) -> Mapping[str, NDArray[np.uint8]]:
    """Return a row of images for every class, each beside its mask where there are masks."""
    images = np.concatenate([each.images for each in drawn])
    masks = [mask for each in drawn for mask in (each.masks if each.masks is not None else ())]
    rows = {}
    for name in dict.fromkeys(classes):
        own = [number for number, other in enumerate(classes) if other == name]
        row = images[own]
        if masks:
            row = pairs(row, np.stack([_shown(masks[number]) for number in own]))
        rows[name] = row
    return rows


def _shown(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(coloured({"bytes": encode_png(mask)}))


def _zoom(images: NDArray[np.uint8]) -> int:
    return max(1, ZOOM_PX // int(images.shape[1]))
