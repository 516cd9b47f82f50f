"""Validation between the steps: losses, a grid of samples, their distance to the val part.

With the average weights where there are any, and always from the same noise: two grids of a run
differ by what was learnt alone.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory.arrays import Features
from factory.atomic import write_text
from factory.finetune.config import ValidationConfig
from factory.finetune.data import Material, spread
from factory.finetune.loop import Loop
from factory.finetune.plan import FEWEST
from factory.finetune.samples import Draw
from factory.finetune.workers import inner
from factory.gate.pixel import PixelGates
from factory.gate.verdict import status_of
from factory.measure.distances import kid
from factory.measure.features import FeatureSpace, load_feature_space
from factory.measure.sheets import write_sheet

CURVE = "validation.json"
FEWEST_POINTS, CHANGE = 4, 0.03
"""Of a curve that says something, and the share by which a loss must change to have changed."""
MOST_PASS = 0.5


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
    sample: Draw | None
    """None: nobody can say what to draw, and there are no grids."""
    class_names: tuple[str, ...]
    folder: Path
    """Where the grids are written: step-00000200.png."""
    distance: Distance | None = None
    gates: PixelGates | None = None
    """Of the real images, by which samples are judged."""

    def __call__(self) -> dict[str, float]:
        """Return the figures of the present step, as they would be after an export.

        They are added to the curve beside `folder`.
        """
        with self._exported():
            found = self.losses()
            if self.draws(self.loop.step):
                found = found | self._draw()
        if self.loop.workers.first:
            add_to_curve(self.folder.with_name(CURVE), self.loop.step, found)
        return found

    def draws(self, step: int) -> bool:
        """Whether a validation after `step` steps draws samples."""
        if self.settings.draw_every is None or self.sample is None:
            return False
        number = step // self.settings.every_steps
        return step == self.loop.config.steps or number % self.settings.draw_every == 0

    def finish(self) -> Path | None:
        """Return the grid of the loop's present weights; drawn now if their step had none."""
        if self.settings.draw_every is None or self.sample is None:
            return None
        if not self.draws(self.loop.step):
            with self._exported():
                self._draw()
        return self._grid()

    def _draw(self) -> dict[str, float]:
        """Write the grid; return 'val_kid' where there is something to compare with."""
        assert self.sample is not None  # noqa: S101 -- for mypy: see `draws`
        wanted = Counter(self.distance.labels if self.distance else ())
        shown = self.settings.images_per_class
        images = self.sample({name: max(shown, wanted[name]) for name in self.class_names})
        if self.loop.workers.first:
            write_sheet(self._grid(), {name: own[:shown] for name, own in images.items()})
        figures = {}
        # Of pairs only the left half is judged and measured: the right one shows the mask.
        images = {name: own[:, :, : own.shape[1]] for name, own in images.items()}
        if self.gates is not None:
            judged = [image for own in images.values() for image in own[:shown]]
            passed = [status_of(self.gates.judge(image)) == "accepted" for image in judged]
            figures["val_passed"] = sum(passed) / len(passed)
        if self.distance is not None:
            drawn = np.concatenate([own[: wanted[name]] for name, own in images.items()])
            measured = kid(self.distance.space.extract(drawn), self.distance.features)
            figures["val_kid"] = measured.value
        return figures

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


def add_to_curve(path: Path, step: int, figures: Mapping[str, float]) -> None:
    """Note the figures of a step; a run that went back before it forgets what came after."""
    curve = {old: told for old, told in read_curve(path).items() if old < step}
    write_text(path, json.dumps(curve | {step: dict(figures)}))


def read_curve(path: Path) -> dict[int, dict[str, float]]:
    """Return step -> figures, in order; empty where there is no curve, or none to be read."""
    try:
        return {int(step): told for step, told in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def advice(curve: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Return what a finished training's curve says of its length, in lines for a person."""
    if not curve:
        return []
    steps, lines = max(curve), []
    if (passed := curve[steps].get("val_passed", 1.0)) < MOST_PASS:
        lines.append(
            f"{1 - passed:.0%} of the samples are refused by the gates of the real images:"
            f" look at the sheet; more than {steps} steps (training.steps, another --output) help"
            " against noise"
        )
    losses = {s: told["val_loss"] for s, told in sorted(curve.items()) if "val_loss" in told}
    if len(losses) < FEWEST_POINTS:
        return lines
    best = min(losses, key=lambda step: losses[step])
    middle = losses[min(losses, key=lambda step: abs(step - steps / 2))]
    last = losses[max(losses)]
    if last > (1 + CHANGE) * losses[best]:
        lines.append(
            f"val_loss was lowest at step {best} ({losses[best]:.4f}) and rose to {last:.4f}:"
            f" validation.best_by=val_loss exports step {best}, fewer steps would do"
        )
    elif middle > (1 + CHANGE) * last:
        lines.append(
            f"val_loss still fell, by {1 - last / middle:.0%} in the second half: more steps help"
            f" (training.steps={2 * steps}, another --output)"
        )
    else:
        lines.append(f"val_loss hardly moved in the second half: {steps} steps are enough")
    return lines


def distance_to(
    held_out: Material | None, rows: Sequence[str], settings: ValidationConfig, *, device: str
) -> Distance | None:
    """Return what samples are held against; None where nothing is, or a KID has too little.

    Args:
        held_out: images of the val part.
        rows: what is drawn; one row that is no class stands for all classes.
        settings: which features, and how many are drawn at most, in the val part's class mix.
        device: computes the features.

    Raises:
        ModelError: the weights of the features are not there.
    """
    if settings.features is None or held_out is None:
        return None
    labels = [rows[0]] * len(held_out) if len(rows) == 1 else list(held_out.labels)
    known = [row for row, label in enumerate(labels) if label in rows]
    if len(known) < FEWEST:
        return None
    space = load_feature_space(settings.features, device=device)
    of_rows = [labels[row] for row in known]
    drawn = spread(of_rows, max(FEWEST, settings.max_images))
    return Distance(
        space=space,
        features=space.extract(held_out.images[known].numpy()),
        labels=tuple(of_rows[place] for place in drawn),
    )
