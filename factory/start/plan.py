"""What can be made of somebody's images, by which commands and in what time: nothing runs here.

images -> ways to divide them, and what each could show -> the one that fits the time -> steps
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from factory.errors import DataError
from factory.evaluate.outset import ONE, detectable_points
from factory.real.dataset import RealDataset
from factory.real.describe import missing_classes
from factory.real.splits import Split, make_folds, make_split

Task = Literal["classes", "masks"]
"""What is drawn and studied: images of classes, or images together with their masks."""
LAB = "new_lab"
"""The preset where wbc-base knows the classes: it learns the stain, and no label."""
FOLDS = (5, 3)
PRESETS = {"classes": "cytodiff_small", "masks": "pairs_small"}
"""Of a training, by what is drawn."""
COLOUR_STEPS, LORA_STEPS, PAIR_STEPS, FEWEST_PAIR_STEPS = 300, 600, 4_000, 2_000
"""Of the presets, that of the first stage before; pairs take fewer where time is short, and what
comes out of still fewer is coloured noise."""
PAIR_BATCH, PAIR_INFERENCE = 16, 50
PAIR_SHARE = 0.7
"""Of the time that is asked for, which a training of pairs may take."""
CHECKED = 1.15
"""Validations and samples take some time beside a training's steps."""
FEWEST_DRAWN, MOST_DRAWN = 16, 96
"""Images drawn of each class: as many as a train part holds, within these."""
LAB_DRAWN = 200
"""Of each class that wbc-base knows, as in the study of another stain."""
VIEWS = 16
"""Under which a probe sees every real image."""
FITS, FIT_SECONDS = 21, 0.4
"""Trainings of a study in each fold, and of one."""
ASKED_POINTS = 5.0
"""A difference that one would like to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured on this machine, in seconds."""

    command: float
    """Until a command has imported what it needs and has opened a generator."""
    read: float
    """Reading all images and looking for near-duplicates."""
    first: float
    """An optimiser step of the first stage, which adapts colours; 0: there is none."""
    step: float
    """An optimiser step of the training."""
    draw: float
    """An image."""
    look: float
    """A view of an image, by the probe's network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What somebody has: the images, how they are read, and what they are to be used for."""

    uri: str
    words: tuple[str, ...]
    """Options that read them the same way in every command."""
    dataset: RealDataset
    groups: tuple[str, ...]
    """One per image, near-duplicates joined: what a split divides."""
    task: Task
    known: Mapping[str, str] = field(default_factory=dict)
    """Class -> the prompt under which wbc-base draws it, of those that it knows by name."""

    def counts(self, without: Sequence[str] = ()) -> dict[str, int]:
        """Return the images of each class."""
        found = Counter(self.dataset.labels)
        return {n: found[n] for n in self.dataset.class_names if n not in without}

    def in_another_lab(self, without: Sequence[str] = ()) -> bool:
        """Return whether wbc-base knows all classes: then no label is needed to draw them here."""
        kept = self.counts(without)
        return self.task == "classes" and len(kept) > 1 and kept.keys() <= self.known.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """A way to divide the images, and what a study by it could show."""

    splits: tuple[Split, ...]
    without: tuple[str, ...]
    """Classes that a part of a split lacks: left out."""
    points: float
    """Differences below it will hardly be told from chance."""
    tested: int

    @property
    def folds(self) -> int:
        """1: one split."""
        return len(self.splits)

    @property
    def needed(self) -> int:
        """Images in all with which a difference of `ASKED_POINTS` would be seen."""
        return math.ceil(self.tested * max(1.0, (self.points / ASKED_POINTS) ** 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command, what stands when it is done, and how long it will take."""

    title: str
    words: tuple[str, ...]
    writes: Path
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What is proposed; `division` None: too few images for any test, all are learnt from."""

    division: Division | None
    others: tuple[Division, ...]
    """Further ways to divide, which take longer or show less."""
    steps: tuple[Step, ...]
    drawn: int
    """Images, by each generator."""

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)


def divisions(images: Project) -> list[Division]:
    """Return the ways in which a study could divide the images, of most folds first."""
    found = (divided(images, folds) for folds in (*FOLDS, 1))
    return [each for each in found if each is not None]


def divided(images: Project, folds: int) -> Division | None:
    """Return the images in so many folds, 1: one split; None where no study could follow."""
    dataset = images.dataset
    try:
        splits = _splits(images, folds)
    except DataError:
        return None
    masks = images.task == "masks"
    lacking = [missing_classes(dataset, split) for split in splits]
    parts = ("train",) if masks else ("train", "val", "test")
    without = sorted({name for each in lacking for part in parts for name in each.get(part, ())})
    kept = images.counts(without)
    if len(kept) < (1 if masks else 2):
        return None
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    tested = [i for split in splits for i in split.test if labels[i] in kept]
    points = detectable_points(
        Counter(labels[i] for i in tested),
        num_folds=folds,
        num_groups=len({dataset.groups[dataset.index_of(i)] for i in tested}),
        masks=masks,
    )
    return Division(splits=splits, without=tuple(without), points=points, tested=len(tested))


def _splits(images: Project, folds: int) -> tuple[Split, ...]:
    dataset, groups = images.dataset, images.groups
    name, ids, labels = dataset.fingerprint, dataset.ids, dataset.labels
    if folds > 1:
        return tuple(
            make_folds(dataset=name, ids=ids, labels=labels, groups=groups, k=folds, seed=0)
        )
    return (make_split(dataset=name, ids=ids, labels=labels, groups=groups, fractions=ONE, seed=0),)


def propose(
    images: Project,
    speed: Speed,
    output: Path,
    *,
    minutes: float,
    folds: int | None = None,
    features: Path | None = None,
) -> Proposal:
    """Return the plan that shows most within `minutes`, or that of so many `folds`.

    Args:
        images: and how they are read.
        speed: of this machine.
        output: of everything, as it is typed.
        minutes: which the whole may take.
        folds: 1 is one split; None: as many as the time allows.
        features: weights of the network that the judge looks through; None: there is no judge.

    Raises:
        DataError: so many folds cannot be, or would leave no two classes.
    """
    ways = divisions(images)
    if folds is not None:
        ways = [way for way in ways if way.folds == folds] or _refused(folds)
    plans = [_planned(images, speed, output, way, minutes, features) for way in ways]
    fitting = [plan for plan in plans if plan.seconds <= 60 * minutes]
    if not plans:
        return _planned(images, speed, output, None, minutes, None)
    best = fitting[0] if fitting else plans[-1]
    others = tuple(way for way in ways if way is not best.division)
    return replace(best, others=others)


def _refused(folds: int) -> list[Division]:
    raise DataError(
        f"these images cannot be divided into {folds} folds that each hold two classes",
        remedy="Leave --folds out: it then says what can be done",
    )


def _planned(
    images: Project,
    speed: Speed,
    output: Path,
    division: Division | None,
    minutes: float,
    features: Path | None,
) -> Proposal:
    """Return the steps of one way to divide; without one, of images that all are learnt from."""
    steps = _Steps(images, speed, output, division, minutes)
    found = [*steps.look(), *steps.split(), *steps.train(), *steps.draw(), *steps.sheet()]
    found += [*(steps.judge(features) if features else ())]
    found += [*(steps.study() if division else ())]
    return Proposal(division=division, others=(), steps=tuple(found), drawn=steps.drawn)


class _Steps:
    """The commands of a plan, as they are typed."""

    def __init__(
        self,
        images: Project,
        speed: Speed,
        output: Path,
        division: Division | None,
        minutes: float,
    ) -> None:
        self._images, self._speed, self._output, self._division = images, speed, output, division
        self._folds = division.folds if division else 1
        self._without = division.without if division else ()
        self._masks = images.task == "masks"
        self._lab = images.in_another_lab(self._without)
        self._data = ("--data", images.uri, *images.words)
        kept = images.counts(self._without)
        self._kept = tuple(kept)
        self._classes = len(kept)
        share = ONE["train"] if division else 1.0
        each = round(share * sum(kept.values()) / len(kept))
        each = LAB_DRAWN if self._lab else min(MOST_DRAWN, max(FEWEST_DRAWN, each))
        self.drawn = len(kept) * each
        wanted = PAIR_SHARE * 60 * minutes / self._folds / max(speed.step, 1e-9)
        fitting = int(min(PAIR_STEPS, max(FEWEST_PAIR_STEPS, wanted))) // 500 * 500
        self._steps = fitting if self._masks else LORA_STEPS

    def look(self) -> Iterator[Step]:
        """Yield what shows the images."""
        sheet = self._output / "real.png"
        words = ("real", "describe", self._images.uri, *self._images.words, "--sheet", str(sheet))
        yield self._step("look at the images", words, sheet, self._speed.read)

    def split(self) -> Iterator[Step]:
        """Yield what divides them."""
        if self._folds > 1:
            how, title = ("--folds", str(self._folds)), f"divide them into {self._folds} folds"
        elif self._division:
            shares = ",".join(f"{part}={share:g}" for part, share in ONE.items())
            how, title = ("--fractions", shares), "divide them into train, val and test"
        else:
            how, title = ("--fractions", "train=1"), "learn from all of them: too few to test on"
        words = ("real", "split", self._images.uri, *self._images.words, *how)
        out = self._output / "split.json"
        yield self._step(title, (*words, "--out", str(out)), self._split(0), self._speed.read)

    def train(self) -> Iterator[Step]:
        """Yield a training for every fold."""
        preset: tuple[str, ...] = ("--config", PRESETS["masks"]) if self._masks else ()
        fewer = self._masks and self._steps < PAIR_STEPS
        preset += ("--set", f"training.steps={self._steps}") if fewer else ()
        left = tuple(word for name in self._without for word in ("--without", name))
        if self._lab:
            prompts = ", ".join(f"{name}: {self._images.known[name]}" for name in self._kept)
            preset, left = ("--config", LAB, "--set", f"classes={{{prompts}}}"), ()
        targets = 1 if self._masks or self._lab else self._classes
        steps = targets * self._steps * self._speed.step + COLOUR_STEPS * self._speed.first
        seconds = self._speed.read + CHECKED * steps
        for fold in range(self._folds):
            place = self._at("training", fold)
            split = ("--split", str(self._split(fold)))
            words = ("finetune", *preset, *self._data, *split, *left)
            words += ("--output", str(place), "--without-ray")
            written = place / "generator" / "factory.json"
            yield self._step(self._title("teach a generator", fold), words, written, seconds)

    def draw(self) -> Iterator[Step]:
        """Yield a run of every generator."""
        options = ["seed=0", f"num_images={self.drawn}"]
        if self._masks:
            options += [f"num_inference_steps={PAIR_INFERENCE}"]
        for fold in range(self._folds):
            model = f"model={self._at('training', fold) / 'generator'}"
            sets = tuple(word for key in (model, *options) for word in ("--set", key))
            words = ("generate", *sets, "--catalog", self._catalog, "--without-ray")
            title = self._title(f"draw {self.drawn} images", fold)
            yield self._step(title, words, Path(self._catalog), self.drawn * self._speed.draw)

    def sheet(self) -> Iterator[Step]:
        """Yield what shows the drawn images."""
        sheet = self._output / "drawn.png"
        words = ("catalog", "sheet", "--catalog", self._catalog, "--out", str(sheet))
        yield self._step("look at what was drawn", words, sheet, 1.0)

    def judge(self, features: Path) -> Iterator[Step]:
        """Yield the judgement of the first generator: the others were trained alike."""
        place, speed = self._output / "judged", self._speed
        words = ("judge", str(self._at("training", 0) / "generator"), *self._data)
        words += ("--split", str(self._split(0)), "--num-images", str(self.drawn))
        words += ("--set", f"features={features}", "--output", str(place))
        looked = 2 * self.drawn + len(self._images.dataset)
        seconds = 2 * self.drawn * speed.draw + looked * speed.look
        yield self._step("judge the generator", words, place / "judge.html", seconds)

    def study(self) -> Iterator[Step]:
        """Yield the study of whether drawn images help."""
        place = self._output / "study"
        splits = tuple(w for n in range(self._folds) for w in ("--split", str(self._split(n))))
        words = ("evaluate", *(("--config", "evaluate_mask_probe") if self._masks else ()))
        words += (*self._data, *splits, "--catalog", self._catalog)
        left = f"without=[{','.join(self._without)}]"
        words += ("--set", left) if self._without and not self._masks else ()
        words += ("--output", str(place), "--without-ray")
        looks = VIEWS * len(self._images.dataset) + self._folds * self.drawn
        seconds = looks * self._speed.look + self._folds * FITS * FIT_SECONDS
        yield self._step("study whether they help", words, place / "report.html", seconds)

    @property
    def _catalog(self) -> str:
        return str(self._output / "catalog")

    def _split(self, fold: int) -> Path:
        """Return the file of a fold's split, as `factory real split` names it."""
        name = f"split.{fold}.json" if self._folds > 1 else "split.json"
        return self._output / name

    def _at(self, name: str, fold: int) -> Path:
        return self._output / (f"{name}-{fold}" if self._folds > 1 else name)

    def _title(self, what: str, fold: int) -> str:
        return f"{what} (fold {fold + 1} of {self._folds})" if self._folds > 1 else what

    def _step(self, title: str, words: tuple[str, ...], writes: Path, seconds: float) -> Step:
        return Step(title=title, words=words, writes=writes, seconds=self._speed.command + seconds)
