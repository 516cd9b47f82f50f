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
    flow: bool | None = False
    """It is for models that learnt a flow; None: for whatever the model is."""


OWN = "own"
LCM_STEPS = 50
"""Of the teacher that consistency models are distilled from: `original_inference_steps`."""

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
    "euler": Solver(
        kind="EulerDiscreteScheduler", settings={"timestep_spacing": "trailing"}, walks=False
    ),
    "lcm": Solver(kind="LCMScheduler", noisy=True, walks=False),
    "flow_euler": Solver(kind="FlowMatchEulerDiscreteScheduler", walks=False, flow=True),
    OWN: Solver(kind="", noisy=True, walks=False, flow=None),
}
"""Name -> solver: a line here is all that a new one needs. `OWN` is the folder's, as it stands.

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


def check_fits(name: str, *, flow: bool, num_inference_steps: int) -> None:
    """Raise where a scheduler is not for such a model, or cannot take so many steps.

    Args:
        name: a known one.
        flow: whether the model learnt a flow.
        num_inference_steps: of a drawing.

    Raises:
        ConfigError: naming those that are for it.
    """
    solver = SCHEDULERS[check_scheduler(name)]
    if solver.flow is not None and solver.flow != flow:
        kinds = ("a diffusion", "a flow from noise to images")
        fitting = [n for n, s in SCHEDULERS.items() if s.flow in (None, flow)]
        raise ConfigError(
            f"scheduler {name!r} is for models that learnt {kinds[not flow]}, and this one learnt"
            f" {kinds[flow]}",
            remedy=f"Set scheduler to {' or '.join(fitting)}",
        )
    if name == "lcm" and num_inference_steps > LCM_STEPS:
        raise ConfigError(
            f"scheduler 'lcm' cannot take {num_inference_steps} steps: it was distilled from"
            f" {LCM_STEPS}",
            remedy=f"Set num_inference_steps to {LCM_STEPS} or fewer; 4 to 8 are usual",
        )


def new_scheduler(name: str, training_config: Mapping[str, Any]) -> Any:
    """Return a fresh scheduler with the training schedule of a model, and no timesteps yet.

    Raises:
        ConfigError: unknown name, or the model's own is asked for and its files do not name it.
    """
    import diffusers

    solver, config = SCHEDULERS[check_scheduler(name)], dict(training_config)
    kind = solver.kind or str(config.get("_class_name"))
    if not hasattr(diffusers, kind):
        raise ConfigError(
            f"scheduler {name!r}: the model's own is {kind}, which diffusers has not",
            remedy=f"Choose one of {', '.join(n for n in SCHEDULERS if n != OWN)}",
        )
    if solver.flow and "flow_shift" in config:  # as solvers that also know diffusion call it
        config["shift"] = config["flow_shift"]
    return getattr(diffusers, kind).from_config(config, **solver.settings)


def make_scheduler(name: str, training_config: Mapping[str, Any], num_inference_steps: int) -> Any:
    """Return a fresh scheduler with its timesteps set, see `new_scheduler`.

    Raises:
        ConfigError: see `new_scheduler`.
    """
    scheduler = new_scheduler(name, training_config)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
