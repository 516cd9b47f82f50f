"""The style pass: pairs noised again and led towards the look of a target, term by term.

    pairs -> noise of level n - skip -> down, x0 moved against the terms' gradient -> pairs

Source: G. Kwon and J. Ye, DiffuseIT, 2023, and S. Yang et al., ZeCon, 2023, as diffuse-gen joins
them; here for whole batches and for any solver.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from factory.device import up
from factory.digest import digest_bytes
from factory.errors import ModelError
from factory.methods.pairs.options import Style, first_level
from factory.models.extractors import FOLDERS, Extractor, find_extractor
from factory.models.pair_codec import PairCodec
from factory.sample.levels import SolverLevels
from factory.sample.loop import DOWN, noise_like, walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """One batch on its way: its network bound to its conditions, its levels, its noise."""

    forward: Callable[[Tensor, Tensor], Tensor]
    """(state, timestep) to the guided prediction."""
    levels: SolverLevels
    timesteps: Tensor
    """Of the levels, on the device: a number would travel there at every step."""
    noise: Tensor
    """(B, C, h, w), the initial one."""
    generators: Sequence[torch.Generator]
    clip: bool

    def predict(self, state: Tensor, level: int) -> Tensor:
        """Return the solver's prediction at a level, its x0 kept within [-1, 1] if so asked."""
        prediction = self.forward(state, self.timesteps[level])
        if not self.clip:
            return prediction
        return self.of_clean(state, self.levels.clean(prediction, state, level), level)

    def of_clean(self, state: Tensor, clean: Tensor, level: int) -> Tensor:
        """Return the prediction that amounts to `clean`, kept within [-1, 1] if so asked."""
        return self.levels.prediction(clean.clamp(-1, 1) if self.clip else clean, state, level)


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

    def total(self, clean: Tensor, noisy: Tensor, level: int, alpha: Tensor) -> Tensor:
        """Return the weighted sum of all terms over all images.

        Args:
            clean: x0 as predicted, (B, C, h, w).
            noisy: the sample, x_t.
            level: where it stands.
            alpha: alphas_cumprod there.
        """
        style, weights = self.lead.style, self.lead.style.weights
        mixed = noise_mixed(clean, noisy, alpha) if style.noise_mix != "none" else clean
        shown = mixed if style.noise_mix == "all" else clean
        images, _ = self.lead.codec.decode(shown)
        losses: dict[str, Tensor] = {}
        if "feature" in weights or "direction" in weights:
            losses |= self._look(images, level)
        if "patch" in weights:
            maps = self.lead.encode(shown if style.noise_mix == "none" else mixed)
            losses["patch"] = patch_contrast(maps, self._wanted["patch"], self.lead.generators)
        if "perceptual" in weights:
            found = self._seen("perceptual", images)
            losses["perceptual"] = squared_all(found, self._wanted["perceptual"])
        if "target" in weights:
            losses["target"] = squared(images, self.lead.target)
        if "source" in weights:
            losses["source"] = squared(images, self._wanted["pixels"][0])
        if "range" in weights:
            losses["range"] = beyond(clean)
        self.told.append({name: value.detach() for name, value in losses.items()})
        signed = {"direction": -1.0}
        weighed = [weights[n] * signed.get(n, 1.0) * loss.sum() for n, loss in losses.items()]
        return torch.stack(weighed).sum() if weighed else clean.sum() * 0

    def _look(self, images: Tensor, level: int) -> dict[str, Tensor]:
        """Return 'feature' and 'direction', which read the same features."""
        weights, losses = self.lead.style.weights, {}
        found = self._seen("feature", images)
        if "feature" in weights:
            losses["feature"] = squared_all(found, self._wanted["feature"])
        if "direction" in weights and self._before and level > self.lead.style.until + 1:
            losses["direction"] = squared_all(found, self._before)
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
    first = first_level(levels.top, lead.style.skip_timesteps)
    start = levels.at(first, lead.source, noise_like(lead.source, sampling.generators))
    pairs = walk(
        start,
        lambda state, level: _led(sampling, losses, state, level),
        levels,
        [DOWN] * first,
        first=first,
        generators=sampling.generators,
    )
    return pairs, _told(losses, len(pairs))


def _led(sampling: Sampling, losses: Terms, state: Tensor, level: int) -> Tensor:
    """Return the prediction whose x0 was moved by the terms.

    Guidance by a loss L takes x0 to x0 - (1 - a) / sqrt(a) dL/dx_t (P. Dhariwal and A. Nichol,
    2021, algorithm 2, for log p = -L). For the gradient with respect to x0 alone, dx0/dx_t is put
    to sqrt(a), its value for data of unit variance.
    """
    levels = sampling.levels
    alpha = levels.alphas_cumprod[level]
    through = losses.lead.style.gradient == "network"
    with torch.set_grad_enabled(through):
        noisy = state.detach().requires_grad_(through)
        prediction = sampling.forward(noisy, sampling.timesteps[level])
        clean = levels.clean(prediction, noisy, level)
    with torch.enable_grad():
        leaf = noisy if through else clean.detach().requires_grad_()
        loss = losses.total(clean if through else leaf, noisy, level, alpha)
        (gradient,) = torch.autograd.grad(loss, leaf)
    step = (1 - alpha) / alpha.sqrt() if through else 1 - alpha
    return sampling.of_clean(state, clean.detach() - step * gradient, level)


def _told(losses: Terms, count: int) -> list[str]:
    """Return {term: {weight, first, last}} of each of `count` images as JSON."""
    terms = [(name, values) for step in losses.told for name, values in step.items()]
    read = torch.stack([values for _, values in terms]).T.tolist() if terms else [[]] * count
    told = []
    for own in read:
        said: dict[str, dict[str, float]] = {}
        for (name, _), exact in zip(terms, own, strict=True):
            value = float(f"{exact:.5g}")
            said.setdefault(name, {"weight": losses.lead.style.weights[name], "first": value})
            said[name]["last"] = value
        told.append(json.dumps(said, sort_keys=True))
    return told


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


PATCHES = 256
"""Positions a map that are compared."""
TEMPERATURE = 0.07


def squared(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared difference (B,) of two tensors (B, ...)."""
    return (first - second).square().flatten(1).mean(1)


def squared_all(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the mean of `squared` over several features."""
    return torch.stack([squared(a, b) for a, b in zip(first, second, strict=True)]).mean(0)


def beyond(values: Tensor) -> Tensor:
    """Return the mean squared excess (B,) of values (B, ...) beyond [-1, 1]."""
    return squared(values, values.clamp(-1, 1))


def noise_mixed(clean: Tensor, noisy: Tensor, alpha: Tensor) -> Tensor:
    """Return sqrt(1 - a) x0 + (1 - sqrt(1 - a)) x_t for the noise level a = alphas_cumprod.

    Source: diffuse-gen, after K. Crowson's guided diffusion.
    """
    share = (1 - alpha).sqrt()
    return share * clean + (1 - share) * noisy


def patch_contrast(
    current: Sequence[Tensor], source: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> Tensor:
    """Return how badly (B,) each patch of `current` finds its own place in `source`.

    Args:
        current: feature maps (B, C, h, w), one per layer.
        source: the same of the source.
        generators: one per image; they choose the positions.

    Source: T. Park et al., Contrastive Learning for Unpaired Image-to-Image Translation, 2020,
    equation 3, within one image.
    """
    return torch.stack(
        [_layer_contrast(now, then, generators) for now, then in zip(current, source, strict=True)]
    ).mean(0)


def _layer_contrast(now: Tensor, then: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    places = [_positions(now, generator) for generator in generators]
    query, key = _patches(now, places), _patches(then, places)
    logits = query.transpose(1, 2) @ key / TEMPERATURE  # (B, P, P)
    own = torch.diagonal(logits, dim1=1, dim2=2)
    return (logits.logsumexp(2) - own).mean(1)


def _patches(maps: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Return (B, C, P) of length 1: each image's maps at its own positions."""
    chosen = [each.flatten(1)[:, place] for each, place in zip(maps, places, strict=True)]
    return F.normalize(torch.stack(chosen), dim=1)


def _positions(maps: Tensor, generator: torch.Generator) -> Tensor:
    count = maps.shape[2] * maps.shape[3]
    return up(torch.randperm(count, generator=generator)[:PATCHES], maps.device)
