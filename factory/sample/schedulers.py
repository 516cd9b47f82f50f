"""Noise schedulers by name, built from the generator's own training schedule."""

from collections.abc import Mapping
from typing import Any

from factory.errors import ConfigError

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
    "dpmpp_2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "timestep_spacing": "trailing"},
    ),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}
"""Name -> diffusers class and what we set on it; everything else comes from the model folder.

'trailing' spacing starts at pure noise, where a trajectory does start (S. Lin et al., Common
Diffusion Noise Schedules and Sample Steps are Flawed, 2024, table 2).
"""

NOISY = frozenset({"ddpm"})
"""Schedulers that draw noise at every step, and so need a generator per image."""


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

    class_name, overrides = SCHEDULERS[check_scheduler(name)]
    kind = getattr(diffusers, class_name)
    scheduler = kind.from_config(dict(training_config), **overrides)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
