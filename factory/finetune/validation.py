"""Validation between the steps: losses, a grid of samples, their distance to the val part.

With the average weights where there are any, and always from the same noise: two grids of a run
differ by what was learnt alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory.errors import DataError
from factory.evaluate.cache import NOTHING_KEPT, ArrayCache
from factory.evaluate.features import Features, FeatureSpace
from factory.evaluate.fidelity import kid
from factory.evaluate.real_features import in_pieces
from factory.evaluate.sheets import write_sheet
from factory.finetune.config import ValidationConfig
from factory.finetune.loop import Loop
from factory.finetune.material import load_material, spread
from factory.finetune.samples import Draw
from factory.finetune.workers import inner
from factory.real.dataset import RealDataset

FEWEST = 4
"""Images that a KID needs on either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """What samples are held against: the features (N, D) of real images, and their classes."""

    space: FeatureSpace
    features: Features
    labels: tuple[str, ...]
    """Of as many images as are drawn for it; the class mix is theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a loop calls between its steps, on every worker; it returns named figures."""

    loop: Loop
    settings: ValidationConfig
    losses: Callable[[], dict[str, float]]
    """The losses on the val part; empty where there is none."""
    sample: Draw
    class_names: tuple[str, ...]
    folder: Path
    """Where the grids are written: step-00000200.png."""
    distance: Distance | None = None

    def __call__(self) -> dict[str, float]:
        """Return the figures of the present step, as they would be after an export."""
        with self._exported():
            found = self.losses()
            if self.draws(self.loop.step):
                found = found | self._draw()
        return found

    def draws(self, step: int) -> bool:
        """Whether a validation after `step` steps draws samples."""
        if self.settings.draw_every is None:
            return False
        number = step // self.settings.every_steps
        return step == self.loop.config.steps or number % self.settings.draw_every == 0

    def finish(self) -> Path | None:
        """Return the grid of the loop's present weights; drawn now if their step had none."""
        if self.settings.draw_every is None:
            return None
        if not self.draws(self.loop.step):
            with self._exported():
                self._draw()
        return self._grid()

    def _draw(self) -> dict[str, float]:
        """Write the grid; return 'val_kid' where there is something to compare with."""
        wanted = Counter(self.distance.labels if self.distance else ())
        shown = self.settings.images_per_class
        images = self.sample({name: max(shown, wanted[name]) for name in self.class_names})
        if self.loop.workers.first:
            write_sheet(self._grid(), {name: own[:shown] for name, own in images.items()})
        if self.distance is None:
            return {}
        drawn = np.concatenate([own[: wanted[name]] for name, own in images.items()])
        return {"val_kid": kid(self.distance.space.extract(drawn), self.distance.features).value}

    @contextmanager
    def _exported(self) -> Iterator[None]:
        """Work with the weights that would be exported now."""
        if self.loop.config.ema_decay == 0:
            yield
            return
        with self.loop.ema.applied(inner(self.loop.model)):
            yield

    def _grid(self) -> Path:
        return self.folder / f"step-{self.loop.step:08d}.png"


def keep_features(
    dataset: RealDataset, ids: Sequence[str], space: FeatureSpace, *, size_px: int, folder: Path
) -> None:
    """Keep the features of the images `ids` beside their latents in `folder`, once."""
    what = ["features", space.digest]
    ArrayCache(folder=folder).get(
        what,
        lambda: in_pieces(
            dataset, ids, size_px=size_px, what=what, compute=space.extract, cache=NOTHING_KEPT
        ),
    )


def distance_to(
    folder: Path, class_names: Sequence[str], space: FeatureSpace, *, max_images: int
) -> Distance | None:
    """Return what samples of these classes are held against; None where a KID has too little.

    Args:
        folder: latents of the val part, with `keep_features`.
        class_names: whose images count.
        space: the same as that of the features.
        max_images: how many are drawn at most, in the val part's class mix.

    Raises:
        DataError: the features are not there.
    """

    def absent() -> Features:
        raise DataError(
            f"{folder} holds no features of {space.name}",
            remedy="Use the same file for validation.features on every machine",
        )

    held_out = load_material(folder)
    features = ArrayCache(folder=folder).get(["features", space.digest], absent)
    rows = [row for row, label in enumerate(held_out.labels) if label in class_names]
    of_classes = [held_out.labels[row] for row in rows]
    if len(rows) < FEWEST:
        return None
    drawn = spread(of_classes, max(FEWEST, max_images))
    return Distance(
        space=space,
        features=features[rows],
        labels=tuple(of_classes[place] for place in drawn),
    )
