"""Alignment: a term that pulls a layer of any denoiser towards a frozen expert's features.

Source: Feature-Aligned Diffusion. Beside the denoising loss it minimises

    w * mean(1 - cos(W e, h)),

h: the pooled output of one layer of the denoiser; e: the expert's features of the same image; W:
a linear map that is trained along and thrown away. Sampling needs neither W nor the expert.

Gradient: e is a constant, whatever image the expert is shown. Also where that is the predicted
one, no gradient runs back through the expert into the prediction: a denoiser could otherwise learn
to please the expert with patterns that nobody sees. So it reaches the denoiser (through h) and W.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from factory.device import up
from factory.digest import digest
from factory.errors import ConfigError
from factory.finetune.config import AlignmentSettings, MethodConfig
from factory.finetune.latents import to_signed, turn
from factory.finetune.losses import Noised, predicted_clean
from factory.models.expert_file import load_expert
from factory.models.experts import Expert, seeded, state_digest
from factory.models.layers import default_layer, layer_width, pooled, tap


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The term. `projection` is W: it belongs into the module that is trained and checkpointed."""

    settings: AlignmentSettings
    layer: str
    expert: Expert
    projection: nn.Linear
    scheduler: DDPMScheduler
    decode: Callable[[Tensor], Tensor] | None = None

    def loss(
        self,
        outputs: list[object],
        noised: Noised,
        prediction: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return mean(1 - cos(W e, h)), without the weight.

        Args:
            outputs: of the layer, as `tap` gathered them during one prediction.
            noised: what was denoised.
            prediction: what the denoiser said of it.
            features: the expert's (B, F), where they are known; None: the expert is asked.

        Raises:
            ConfigError: a layer without gradient, or with another kind of output than expected;
                latents where the expert needs images.
        """
        hidden = pooled(outputs, self.layer, self.settings.pooling)
        if torch.is_grad_enabled() and not hidden.requires_grad:
            raise ConfigError(
                f"layer {self.layer!r} has no gradient: nothing before it is trained",
                remedy="Align a later layer",
            )
        if features is None:
            features = self._features(noised, prediction)
        projected = self.projection(up(features, hidden.device).float())
        if projected.shape != hidden.shape:
            raise ConfigError(
                f"layer {self.layer!r} gives features {tuple(hidden.shape)},"
                f" the expert's become {tuple(projected.shape)}",
                remedy="Align a layer whose output has its channels second",
            )
        return cosine_loss(projected, hidden)

    @torch.no_grad()
    def _features(self, noised: Noised, prediction: Tensor) -> Tensor:
        """Return the expert's features (B, F) of what it is shown."""
        images = self._images(noised, prediction)
        if self.expert.mean.device != images.device:
            self.expert.to(images.device)
        return expert_features(self.expert, images, self.settings)

    def _images(self, noised: Noised, prediction: Tensor) -> Tensor:
        decode = self.decode or (lambda images: images)
        match self.settings.expert_input:
            case "noisy":
                return decode(noised.noisy)
            case "clean":
                return decode(noised.clean).clamp(-1, 1)
            case "predicted":
                clean = predicted_clean(self.scheduler, noised, prediction)
                return decode(clean).clamp(-1, 1)


def build_alignment(
    settings: AlignmentSettings,
    denoiser: nn.Module,
    expert: Expert | None,
    scheduler: DDPMScheduler,
    *,
    seed: int,
    decode: Callable[[Tensor], Tensor] | None = None,
    joins: nn.Module | None = None,
) -> Alignment | None:
    """Return the term for `denoiser`, or None for weight 0: then there is nothing to compute.

    Args:
        settings: layer, weight, what the expert sees.
        denoiser: the network that predicts, not wrapped.
        expert: is frozen for good; may be None for weight 0.
        scheduler: of the training; says how a prediction becomes an image.
        seed: of the initial W.
        decode: maps what the denoiser denoises to images (B, 3, H, W) in [-1, 1]: for latents the
            autoencoder's decoder with their scaling undone. None: these are images.
        joins: gets W as its `projection`, so that W is trained and checkpointed with the rest.

    Raises:
        ConfigError: no expert, an unknown layer, or one whose width cannot be told.
    """
    if settings.weight == 0:
        return None
    if expert is None:
        raise ConfigError(
            f"alignment with weight {settings.weight} needs an expert",
            remedy="Train one and name its folder, or set the weight to 0",
        )
    layer = settings.layer or default_layer(denoiser)
    source = expert.width
    if settings.expert_layer is not None:
        source = layer_width(expert.network, settings.expert_layer)
    with seeded(seed):
        projection = nn.Linear(source, layer_width(denoiser, layer))
    if joins is not None:
        joins.projection = projection
    return Alignment(
        settings=settings,
        layer=layer,
        expert=expert.freeze(),
        projection=projection,
        scheduler=scheduler,
        decode=decode,
    )


def aligned_losses(
    alignment: Alignment | None,
    denoiser: nn.Module,
    noised: Noised,
    *,
    predict: Callable[[], Tensor],
    loss_of: Callable[[Tensor], Tensor],
    features: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return 'loss' of a step and, if it is aligned, its terms 'denoising' and 'alignment'.

    The hook exists during `predict` only: averaged, exported and sampled networks never have it.

    Args:
        alignment: from `build_alignment`; None is plain training, bit for bit.
        denoiser: the network in which `alignment.layer` is found.
        noised: what `predict` denoises.
        predict: calls the model once.
        loss_of: the denoising loss of a prediction.
        features: the expert's, where they were computed before: see `Alignment.loss`.
    """
    if alignment is None:
        return {"loss": loss_of(predict())}
    with tap(denoiser, alignment.layer) as outputs:
        prediction = predict()
    denoising, term = loss_of(prediction), alignment.loss(outputs, noised, prediction, features)
    loss = denoising + alignment.settings.weight * term
    return {"loss": loss, "denoising": denoising, "alignment": term}


@torch.no_grad()
def expert_features(expert: Expert, images: Tensor, settings: AlignmentSettings) -> Tensor:
    """Return the features (B, F) that `settings` name, of images (B, 1 or 3, H, W) in [-1, 1].

    Raises:
        ConfigError: neither grey nor RGB images, or a layer that the expert has not.
    """
    if settings.expert_layer is None:
        return expert.features(images)
    with tap(expert.network, settings.expert_layer) as outputs:
        expert(images)
    return pooled(outputs, settings.expert_layer, settings.pooling)


def cosine_loss(projected: Tensor, hidden: Tensor) -> Tensor:
    """Return mean(1 - cos) of (B, F) and (B, F): 0 where all are aligned, 2 where opposed."""
    return (1 - F.cosine_similarity(projected.float(), hidden.float(), dim=1)).mean()


BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesOf:
    """What an expert sees in the real images, computed once: it never changes while it steers.

    Only for an expert that is shown the clean image. It then sees the real one and not what the
    autoencoder makes of it, and a step of training costs what it costs without alignment.
    """

    expert: Expert
    settings: AlignmentSettings

    @property
    def digest(self) -> str:
        """Names the expert's weights and what is read of it."""
        settings = self.settings.model_dump(mode="json", include={"expert_layer", "pooling"})
        return digest(
            [state_digest(self.expert), self.expert.spec.model_dump(mode="json"), settings]
        )

    def __call__(self, images: Tensor, *, turns: int, device: str = "cpu") -> Tensor:
        """Return (N, turns, F) float16 for images (N, S, S, 3) uint8, each under so many turns."""
        self.expert.to(device)
        rows = [
            torch.stack([self._features(turn(shown, number)) for number in range(turns)], dim=1)
            for shown in (to_signed(each).to(device) for each in torch.split(images, BATCH))
        ]
        return torch.cat(rows)

    def _features(self, images: Tensor) -> Tensor:
        return expert_features(self.expert, images, self.settings).half().cpu()


def expert_of(config: MethodConfig) -> Expert | None:
    """Return the expert that steers a training; None where nothing is aligned.

    Raises:
        ConfigError: it is to be aligned, and no expert is named.
        ModelError: its folder is no whole expert.
    """
    if not config.alignment.weight:
        return None
    if config.expert is None:
        raise ConfigError(
            f"alignment.weight {config.alignment.weight} needs an expert",
            remedy="Set expert to the folder of one, or alignment.weight to 0",
        )
    return load_expert(config.expert)[0]


def features_of(expert: Expert | None, settings: AlignmentSettings) -> FeaturesOf | None:
    """Return what computes the features beforehand, or None where that cannot be done."""
    if expert is None or settings.weight == 0 or settings.expert_input != "clean":
        return None
    return FeaturesOf(expert=expert, settings=settings)
