"""What a batch of pairs is drawn with: its bound network, its noise levels, its noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factory.sample.methods import walk as w


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """One batch on its way: its network bound to its conditions, its levels, its noise."""

    forward: Callable[[Tensor, int], Tensor]
    """(sample, timestep) to the guided prediction."""
    levels: w.Levels
    noise: Tensor
    """(B, C, h, w), the initial one."""
    generators: Sequence[torch.Generator]
    kind: str
    clip: bool

    def predict(self, sample: Tensor, index: int) -> Tensor:
        """Return the solver's prediction at a level, its x0 kept within [-1, 1] if so asked."""
        prediction = self.forward(sample, self.levels.timesteps[index])
        if not self.clip:
            return prediction
        alpha = self.levels.alpha(index).to(sample.device)
        clean = w.to_clean(self.kind, sample, prediction, alpha)
        return self.of_clean(sample, clean, index)

    def of_clean(self, sample: Tensor, clean: Tensor, index: int) -> Tensor:
        """Return the prediction that amounts to `clean`, kept within [-1, 1] if so asked."""
        kept = clean.clamp(-1, 1) if self.clip else clean
        return w.from_clean(self.kind, sample, kept, self.levels.alpha(index).to(sample.device))
