"""Trajectories: a teacher's ways from noise to image, kept where a student will stop.

They follow from the plan alone, batch after batch, so a killed recording goes on where it was.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from factory.atomic import write_bytes
from factory.digest import digest
from factory.errors import DataError
from factory.sample.engine import Engine
from factory.sample.guidance import GuidedMethod, sides
from factory.sample.loop import denoise
from factory.sample.plan import Plan
from factory.sample.recipe import Request
from factory.sample.schedulers import make_scheduler
from factory.terminal import Tell, duration

STATES = "states"
TELL_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """N ways of a teacher, of `steps` stretches each."""

    states: Tensor
    """(N, steps + 1, C, h, w) float32: noise, then where each stretch ended."""
    requests: tuple[Request, ...]
    """What each way was drawn for."""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def steps(self) -> int:
        """Stretches of a way."""
        return self.states.shape[1] - 1

    def rows(self, numbers: Sequence[int]) -> "Trajectories":
        """Return the ways with these numbers, in this order."""
        chosen = list(numbers)
        own = tuple(self.requests[number] for number in chosen)
        return Trajectories(states=self.states[chosen], requests=own)

    def parted(self, held_out: int) -> tuple["Trajectories", "Trajectories"]:
        """Return the ways to learn, and `held_out` others, spread evenly over all classes."""
        kept = {number * len(self) // held_out for number in range(held_out)}
        learn = [number for number in range(len(self)) if number not in kept]
        return self.rows(learn), self.rows(sorted(kept))


@torch.inference_mode()
def trajectory(method: GuidedMethod, requests: Sequence[Request], steps: int) -> Tensor:
    """Return the states (B, steps + 1, C, h, w) through which `method` draws requests.

    The first is the noise, the last what `GuidedMethod.decode` makes the images of: they are those
    of `GuidedMethod.draw`, bit for bit.

    Args:
        method: the teacher's.
        requests: B of them, with equal settings.
        steps: of the student; the teacher's are a multiple.
    """
    recipe = requests[0].recipe
    solver = make_scheduler(recipe.scheduler, method.training_config, recipe.num_inference_steps)
    scale = recipe.guidance_scale
    predict = method.bound(method.conditions(requests, sides(scale)), scale)
    states = [method.noise(requests) * solver.init_noise_sigma]
    stride = recipe.num_inference_steps // steps
    for first in range(0, recipe.num_inference_steps, stride):
        stretch = solver.timesteps[first : first + stride]
        states.append(denoise(predict, solver, states[-1], timesteps=stretch))
    return torch.stack(states, dim=1).float().cpu()


def record(engine: Engine, plan: Plan, steps: int, output: Path, *, tell: Tell) -> Trajectories:
    """Return the teacher's trajectories of a plan, kept below `output`; those there are read.

    Raises:
        DataError: a file of them is damaged.
    """
    folder = output / f"trajectories-{digest([plan.digest, steps])}"
    lacking = [index for index in plan.indices if not _file(folder, index).exists()]
    began = told = time.monotonic()
    for number, index in enumerate(lacking, 1):
        batch = plan.batch(index)
        padded = [*batch.requests, *[batch.requests[-1]] * (batch.size - len(batch.requests))]
        method = engine.guided(padded[0].recipe.class_name)
        states = trajectory(method, padded, steps)[: len(batch.requests)]
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(_file(folder, index), save({STATES: states.contiguous()}))
        now = time.monotonic()
        if now - told > TELL_SECONDS or number == len(lacking):
            told, left = now, (now - began) / number * (len(lacking) - number)
            done = plan.num_batches - len(lacking) + number
            tell(f"teacher: batch {done} of {plan.num_batches}, {duration(left)} left")
    requests = tuple(request for batch in plan.batches() for request in batch.requests)
    states = torch.cat([_read(folder, index) for index in plan.indices])
    if len(states) != len(requests):
        raise DataError(
            f"{folder} holds {len(states)} trajectories of {len(requests)}",
            remedy="Delete it and give the command again: it is made anew",
        )
    return Trajectories(states=states, requests=requests)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.safetensors"


def _read(folder: Path, index: int) -> Tensor:
    path = _file(folder, index)
    try:
        states: Tensor = load_file(path)[STATES]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{path} is damaged ({error})",
            remedy="Delete it and give the command again: it is made anew",
        ) from error
    return states
