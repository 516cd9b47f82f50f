"""An expert: a classifier of real images on any timm backbone, whose features steer a training.

Source: Feature-Aligned Diffusion. There the expert went back to training mode with the model that
held it, and its batch-norm statistics drifted on noisy images; here a frozen expert cannot.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.digest import digest, digest_bytes
from factory.errors import ConfigError, ModelError
from factory.models.config import ExpertSpec
from factory.models.shards import read_tensors

_LUMA = (0.299, 0.587, 0.114)


class Expert(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] to features (B, F) and to logits (B, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ExpertSpec) -> None:
        """Random weights from the global generator: use `build_expert`.

        Raises:
            ConfigError: timm knows no such backbone.
        """
        super().__init__()
        import timm

        if not timm.is_model(spec.backbone):
            close = difflib.get_close_matches(spec.backbone.split(".")[0], timm.list_models(), 5)
            raise ConfigError(
                f"timm knows no backbone {spec.backbone!r}",
                remedy=f"Choose another, such as {', '.join(close or ['resnet18'])}",
            )
        facts = timm.get_pretrained_cfg(spec.backbone)
        size = {"img_size": spec.size_px} if facts.fixed_input_size else {}
        channels = 1 if spec.grey else 3
        self.spec, self._frozen = spec, False
        self.network = timm.create_model(
            spec.backbone, num_classes=len(spec.class_names), in_chans=channels, **size
        )
        for name, values in (("mean", facts.mean), ("std", facts.std)):
            kept = [sum(values) / len(values)] if spec.grey else values
            self.register_buffer(name, torch.tensor(kept)[:, None, None], persistent=False)

    @property
    def width(self) -> int:
        """F, the number of features."""
        return int(self.network.head_hidden_size)

    def features(self, images: Tensor) -> Tensor:
        """Return what the classifying layer sees, (B, F).

        Raises:
            ConfigError: neither grey nor RGB images.
        """
        maps = self.network.forward_features(self._input(images))
        features: Tensor = self.network.forward_head(maps, pre_logits=True)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes); no softmax, as cross-entropy wants them."""
        logits: Tensor = self.network(self._input(images))
        return logits

    def freeze(self) -> Self:
        """Stop gradients and stay in eval mode for good, whatever a module around it does."""
        self._frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Change the mode, unless frozen."""
        return super().train(mode and not self._frozen)

    def _input(self, images: Tensor) -> Tensor:
        values = (images.float() + 1) / 2
        if images.shape[1] not in (1, 3):
            raise ConfigError(
                f"the expert takes images of 1 or 3 channels, not {images.shape[1]}",
                remedy="Decode latents to images first",
            )
        if self.spec.grey and images.shape[1] == 3:
            values = (values * values.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
        elif not self.spec.grey:
            values = values.expand(-1, 3, -1, -1)
        size = (self.spec.size_px, self.spec.size_px)
        if values.shape[2:] != size:
            values = F.interpolate(values, size, mode="bilinear", antialias=True)
        return (values - self.mean) / self.std


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed the global generators inside, restore them after: for code that takes no other.

    That of the CPU and of `device`: dropout draws where it computes.
    """
    on_gpu = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield


def build_expert(spec: ExpertSpec, *, seed: int, weights: Path | None = None) -> Expert:
    """Return an untrained expert: its layers from `seed`, its backbone from `weights` if given.

    Args:
        spec: backbone, classes, input.
        seed: of random initial weights.
        weights: state dict of the same timm backbone, as safetensors. Its classifying layer is
            left out, its first layer summed over colours for a grey expert.

    Raises:
        ConfigError: unknown backbone.
        ModelError: the file is missing, unreadable, or of another backbone.
    """
    with seeded(seed):
        expert = Expert(spec)
    if weights is not None:
        _load_backbone(expert, Path(weights))
    return expert


def state_digest(module: nn.Module) -> str:
    """Return a digest of all parameters AND buffers: names, types, shapes, bytes."""
    named = chain(module.named_parameters(), module.named_buffers())
    return digest(
        {
            name: [str(value.dtype), list(value.shape), digest_bytes(_bytes(value))]
            for name, value in named
        }
    )


def _load_backbone(expert: Expert, path: Path) -> None:
    """Copy every tensor of the backbone from a file of timm's names."""
    import timm.models

    state = read_tensors(path, of=f"timm's {expert.spec.backbone}")
    facts: dict[str, Any] = expert.network.pretrained_cfg
    heads = tuple(f"{name}." for name in _names(facts.get("classifier")))
    wanted = {k: v for k, v in expert.network.state_dict().items() if not k.startswith(heads)}
    if expert.spec.grey:
        for key in (f"{name}.weight" for name in _names(facts.get("first_conv"))):
            if key in state:
                state[key] = timm.models.adapt_input_conv(1, state[key])
    for name, value in wanted.items():
        if name not in state or state[name].shape != value.shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            raise ModelError(
                f"{path} does not fit {expert.spec.backbone}:"
                f" {name} needs {tuple(value.shape)}, the file has {found}",
                remedy="Give the state dict of this timm backbone",
            )
    expert.network.load_state_dict({name: state[name] for name in wanted}, strict=False)


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().tobytes()
