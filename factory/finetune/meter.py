"""How fast a training runs: images/s, what is left, and which share of the machine it uses."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from factory.terminal import duration, rate

MATRIX = 1024
NORM, STEP = "gradient_norm", "step"
"""What is read beside the losses."""


class Readings(Mapping[str, float]):
    """Scalars by name that stay on the device until somebody looks: a look waits for it."""

    __slots__ = ("_names", "_read", "_values")

    def __init__(self, names: Sequence[str], values: Tensor) -> None:
        """`values` (len(names),)."""
        self._names, self._values = tuple(names), values
        self._read: dict[str, float] | None = None

    def __getitem__(self, name: str) -> float:
        if self._read is None:
            self._read = dict(zip(self._names, self._values.tolist(), strict=True))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a step reports."""

    step: int
    steps: int
    readings: Mapping[str, float]
    """Losses, means over the batch of all workers, and the `NORM` of their gradient."""
    learning_rate: float
    batch_size: int
    first_step: int = 0
    seconds: float = 0.0
    """Wall time since this process began with `first_step`."""
    utilisation: float | None = None
    """Share of `matmul_rate` that the network's own operations reach; None: not counted."""

    @property
    def losses(self) -> dict[str, float]:
        """Their terms, and what a validation found."""
        return {n: value for n, value in self.readings.items() if n not in (NORM, STEP)}

    @property
    def gradient_norm(self) -> float:
        """Before it was clipped."""
        return self.readings[NORM]

    @property
    def images_per_second(self) -> float:
        """Images of all workers, since this process began."""
        return (self.step - self.first_step) * self.batch_size / max(self.seconds, 1e-9)

    @property
    def eta_seconds(self) -> float:
        """Wall time that is left at this rate."""
        done = max(1, self.step - self.first_step)
        return (self.steps - self.step) * self.seconds / done


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Which of several trainings this one is: class 2 of 4, and how many of its length follow."""

    name: str
    number: int
    """From 1."""
    of: int
    later: int = 0
    """Trainings one after another when this one has ended; those side by side count once."""


def describe(progress: Progress, turn: Turn | None = None) -> str:
    """Return step, losses, rates and ETA in one line; with a `turn` also the ETA of the whole."""
    terms = ", ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    used = "" if progress.utilisation is None else f", {progress.utilisation:.0%} of matmul rate"
    which, whole = "", ""
    if turn is not None and turn.of > 1:
        which = f"{turn.name} ({turn.number} of {turn.of}), "
        done = max(1, progress.step - progress.first_step)
        each = progress.steps * progress.seconds / done
        whole = f", of all {duration(progress.eta_seconds + turn.later * each)}"
    return (
        f"{which}step {progress.step}/{progress.steps}: {terms},"
        f" rate {progress.learning_rate:.1e}, {rate(progress.images_per_second)} images/s{used},"
        f" ETA {duration(progress.eta_seconds)}{whole}"
    )


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of convolutions and matrix products in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def matmul_rate(device: str, *, bf16: bool, repeats: int = 5) -> float:
    """Return the FLOP/s of plain square products here: the yardstick of model-FLOP utilisation.

    Data sheets name a chip's peak; a measured product also knows of clock limits and CPU shares.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    left = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    best = min(_seconds(left) for _ in range(repeats))
    return 2 * MATRIX**3 / best


def _seconds(matrix: Tensor) -> float:
    begun = time.perf_counter()
    product = matrix @ matrix
    product[0, 0].item()  # waits for a GPU
    return time.perf_counter() - begun
