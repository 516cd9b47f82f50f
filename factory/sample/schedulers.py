"""Noise schedulers by name, built from the generator's own training schedule."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from factory.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """How a scheduler is made, and what can be done with it."""

    kind: str
    """Class of diffusers."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What we set on it; everything else comes from the model folder."""
    noisy: bool = False
    """It draws noise at every step, and so needs a generator per image."""
    walks: bool = True
    """It visits the levels that it is given, and so can start from an image and go back."""


SCHEDULERS: Mapping[str, Solver] = {
    "ddpm": Solver(kind="DDPMScheduler", noisy=True),
    "ddim": Solver(
        kind="DDIMScheduler", settings={"timestep_spacing": "trailing", "clip_sample": False}
    ),
    "dpmpp_2m": Solver(
        kind="DPMSolverMultistepScheduler",
        settings={
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "timestep_spacing": "trailing",
        },
    ),
    "unipc": Solver(kind="UniPCMultistepScheduler", settings={"timestep_spacing": "trailing"}),
    "pndm": Solver(kind="PNDMScheduler", settings={"skip_prk_steps": True}, walks=False),
}
"""Name -> solver: a line here is all that a new one needs.

'trailing' spacing starts at pure noise, where a trajectory does start (S. Lin et al., Common
Diffusion Noise Schedules and Sample Steps are Flawed, 2024, table 2).
"""


def check_scheduler(name: str) -> str:
    """Return `name` if it is known.

    Raises:
        ConfigError: otherwise, with the names that are.
    """
    if name not in SCHEDULERS:
        raise ConfigError(
            f"unknown scheduler {name!r}", remedy=f"Choose one of {', '.join(SCHEDULERS)}"
        )
    return name


def make_scheduler(name: str, training_config: Mapping[str, Any], num_inference_steps: int) -> Any:
    """Return a fresh scheduler with its timesteps set.

    Raises:
        ConfigError: unknown name.
    """
    import diffusers

    solver = SCHEDULERS[check_scheduler(name)]
    kind = getattr(diffusers, solver.kind)
    scheduler = kind.from_config(dict(training_config), **solver.settings)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
