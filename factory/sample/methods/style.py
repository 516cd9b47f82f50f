"""The style pass: pairs noised again and led towards the look of a target, term by term.

    pairs -> noise of level n - skip - 1 -> down, x0 moved against the terms' gradient -> pairs

Source: G. Kwon and J. Ye, DiffuseIT, 2023, and S. Yang et al., ZeCon, 2023, as diffuse-gen joins
them; here for whole batches and for any solver.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from factory.digest import digest_bytes
from factory.errors import ModelError
from factory.models.extractors import FOLDERS, Extractor, find_extractor
from factory.models.pair_codec import PairCodec
from factory.sample.methods import style_terms as terms
from factory.sample.methods import walk as w
from factory.sample.methods.pair_sampling import Sampling
from factory.sample.methods.pairs_options import Style, first_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """What leads a batch, all of it at hand before the first step."""

    style: Style
    codec: PairCodec
    encode: Callable[[Tensor], list[Tensor]]
    """Clean pairs (B, C, h, w) to the generator's own feature maps."""
    extractors: Mapping[str, Extractor]
    source: Tensor
    """Pairs (B, C, h, w) as the pass finds them."""
    target: Tensor
    """Images (B, 3, S, S) in [-1, 1]."""
    generators: Sequence[torch.Generator]


@dataclass(slots=True, kw_only=True)
class Terms:
    """The losses of one pass. It remembers features: the target's, the last step's."""

    lead: Lead
    _wanted: dict[str, list[Tensor]] = field(default_factory=dict)
    _before: list[Tensor] | None = None
    told: list[dict[str, Tensor]] = field(default_factory=list)
    """Of every step: term -> its loss (B,), unweighted."""

    def __post_init__(self) -> None:
        lead, weights = self.lead, self.lead.style.weights
        with torch.no_grad():
            self._wanted["pixels"] = [lead.codec.decode(lead.source)[0]]
            if "patch" in weights:
                self._wanted["patch"] = lead.encode(lead.source)
            if "feature" in weights:
                self._wanted["feature"] = self._seen("feature", lead.target)
            if "perceptual" in weights:
                self._wanted["perceptual"] = self._seen("perceptual", self._wanted["pixels"][0])

    def total(self, clean: Tensor, noisy: Tensor, index: int, alpha: Tensor) -> Tensor:
        """Return the weighted sum of all terms over all images.

        Args:
            clean: x0 as predicted, (B, C, h, w).
            noisy: the sample, x_t.
            index: the level.
            alpha: alphas_cumprod there.
        """
        style, weights = self.lead.style, self.lead.style.weights
        mixed = terms.noise_mixed(clean, noisy, alpha) if style.noise_mix != "none" else clean
        shown = mixed if style.noise_mix == "all" else clean
        images, _ = self.lead.codec.decode(shown)
        losses: dict[str, Tensor] = {}
        if "feature" in weights or "direction" in weights:
            losses |= self._look(images, index)
        if "patch" in weights:
            maps = self.lead.encode(shown if style.noise_mix == "none" else mixed)
            losses["patch"] = terms.patch_contrast(
                maps, self._wanted["patch"], self.lead.generators
            )
        if "perceptual" in weights:
            found = self._seen("perceptual", images)
            losses["perceptual"] = terms.squared_all(found, self._wanted["perceptual"])
        if "target" in weights:
            losses["target"] = terms.squared(images, self.lead.target)
        if "source" in weights:
            losses["source"] = terms.squared(images, self._wanted["pixels"][0])
        if "range" in weights:
            losses["range"] = terms.beyond(clean)
        self.told.append({name: value.detach() for name, value in losses.items()})
        signed = {"direction": -1.0}
        weighed = [weights[n] * signed.get(n, 1.0) * loss.sum() for n, loss in losses.items()]
        return torch.stack(weighed).sum() if weighed else clean.sum() * 0

    def _look(self, images: Tensor, index: int) -> dict[str, Tensor]:
        """Return 'feature' and 'direction', which read the same features."""
        weights, losses = self.lead.style.weights, {}
        found = self._seen("feature", images)
        if "feature" in weights:
            losses["feature"] = terms.squared_all(found, self._wanted["feature"])
        if "direction" in weights and self._before and index > self.lead.style.until:
            losses["direction"] = terms.squared_all(found, self._before)
        self._before = [each.detach() for each in found]
        return losses

    def _seen(self, term: str, images: Tensor) -> list[Tensor]:
        style = self.lead.style
        name = style.perceptual_extractor if term == "perceptual" else style.extractor
        return self.lead.extractors[name].outputs(images)


def styled(sampling: Sampling, lead: Lead) -> tuple[Tensor, list[str]]:
    """Return pairs (B, C, h, w) after the pass, and of each image what its terms were, as JSON.

    Args:
        sampling: with the levels of the pass.
        lead: its source is where the pass begins.
    """
    levels, losses = sampling.levels, Terms(lead=lead)
    first = first_index(len(levels.timesteps), lead.style.skip_timesteps)
    start = levels.noised(lead.source, w.noise_like(lead.source, sampling.generators), first)
    pairs = w.walk(
        start,
        lambda sample, index: _led(sampling, losses, sample, index),
        levels,
        [w.DOWN] * (first + 1),
        first=first,
        generators=sampling.generators,
    )
    return pairs, [_told(losses, number) for number in range(len(pairs))]


def _led(sampling: Sampling, losses: Terms, sample: Tensor, index: int) -> Tensor:
    """Return the prediction whose x0 was moved by the terms.

    Guidance by a loss L takes x0 to x0 - (1 - a) / sqrt(a) dL/dx_t (P. Dhariwal and A. Nichol,
    2021, algorithm 2, for log p = -L). For the gradient with respect to x0 alone, dx0/dx_t is put
    to sqrt(a), its value for data of unit variance.
    """
    alpha = sampling.levels.alpha(index).to(sample.device)
    through = losses.lead.style.gradient == "network"
    timestep = sampling.levels.timesteps[index]
    with torch.set_grad_enabled(through):
        noisy = sample.detach().requires_grad_(through)
        clean = w.to_clean(sampling.kind, noisy, sampling.forward(noisy, timestep), alpha)
    with torch.enable_grad():
        leaf = noisy if through else clean.detach().requires_grad_()
        loss = losses.total(clean if through else leaf, noisy, index, alpha)
        (gradient,) = torch.autograd.grad(loss, leaf)
    step = (1 - alpha) / alpha.sqrt() if through else 1 - alpha
    return sampling.of_clean(sample, clean.detach() - step * gradient, index)


def _told(losses: Terms, number: int) -> str:
    """Return {term: {weight, first, last}} of one image as JSON."""
    said: dict[str, dict[str, float]] = {}
    for step in losses.told:
        for name, values in step.items():
            value = float(f"{float(values[number]):.5g}")
            said.setdefault(name, {"weight": losses.lead.style.weights[name], "first": value})
            said[name]["last"] = value
    return json.dumps(said, sort_keys=True)


def check_weights(extractor: Extractor, style: Style) -> None:
    """Refuse an extractor whose weights are not those that the recipe was made with.

    Raises:
        ModelError: other weights.
    """
    wanted = style.extractor_digests.get(extractor.name)
    if wanted != extractor.digest:
        raise ModelError(
            f"the extractor {extractor.name!r} has weights {extractor.digest}, the recipe {wanted}",
            remedy=f"Put the weights that drew the images into a folder of {FOLDERS}",
        )


def with_digests(style: Style, generator: Path) -> Style:
    """Return `style` with the digests of the weights that its terms need.

    Raises:
        ConfigError: an unknown extractor.
        ModelError: one without weights at hand.
    """
    found = {
        name: digest_bytes(find_extractor(name, use=use, generator=generator).read_bytes())
        for name, use in style.extractors.items()
    }
    return style.model_copy(update={"extractor_digests": found})
