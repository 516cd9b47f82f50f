"""The learning rate over a run: warm up, hold, decay at the end."""

import math


def warmup_hold_decay(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    final_fraction: float = 0.02,
) -> float:
    """Return the factor on the base learning rate at `step` (0-based) of `steps`.

    Linear warm-up, constant, then a half cosine to `final_fraction`. Holding makes a run
    extendable: any checkpoint before the decay can be continued for longer, or decayed early
    (S. Hu et al., MiniCPM, 2024, section 4; measured here: without decay the cells stay noisy).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step < steps - decay_steps:
        return 1.0
    progress = (step - (steps - decay_steps)) / max(1, decay_steps)
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1, progress)))
