"""CLIP as a classifier: LoRA in both towers, class texts in place of a classifying layer.

Source: CytoDiff's second classifier, after DataDream: logits = exp(scale) cos(image, class text);
only the LoRA trains. A. Radford et al., Learning Transferable Visual Models From Natural Language
Supervision, 2021.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.errors import ConfigError, ModelError
from factory.evaluate.config import ClipLora
from factory.models.conditioning import tokenize
from factory.models.experts import seeded
from factory.models.folder import check_folder

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on."""


class ClipClassifier(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to logits (B, classes)."""

    mean: Tensor
    std: Tensor
    tokens: Tensor

    def __init__(self, clip: nn.Module, tokens: Tensor, size_px: int) -> None:
        """`tokens` (classes, length) are those of the class texts."""
        super().__init__()
        self.clip, self.size_px = clip, size_px
        self.register_buffer("tokens", tokens, persistent=False)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits; the texts go through their tower with every batch, as it learns."""
        values, size = (images.float() + 1) / 2, (self.size_px, self.size_px)
        if values.shape[2:] != size:
            values = F.interpolate(values, size, mode="bicubic", antialias=True)
        found: Any = self.clip(input_ids=self.tokens, pixel_values=(values - self.mean) / self.std)
        logits: Tensor = found.logits_per_image
        return logits


def build_clip(settings: ClipLora, class_names: Sequence[str], *, seed: int) -> ClipClassifier:
    """Return the model with an untrained LoRA, everything else frozen.

    Raises:
        ModelError: no CLIP model in the folder, or one with unsafe or broken files.
        ConfigError: a prompt of no class, or targets that name no layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if unknown := sorted(settings.prompts.keys() - set(class_names)):
        raise ConfigError(
            f"learner.clip.prompts: {unknown[0]!r} is no class of the real images",
            remedy=f"Choose of {', '.join(class_names)}",
        )
    settings.check()
    clip, tokenizer = _loaded(Path(settings.folder).expanduser())
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    clip.requires_grad_(False)
    try:
        with seeded(seed):
            inject_adapter_in_model(lora, clip)
    except ValueError as error:
        raise ConfigError(
            f"learner.clip.targets {list(settings.targets)} name no layer of {settings.folder}",
            remedy="Use ends of module names, such as q_proj",
        ) from error
    texts = [settings.prompts.get(name, f"a photo of a {name}") for name in class_names]
    return ClipClassifier(clip, tokenize(tokenizer, texts), clip.config.vision_config.image_size)


def _loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPTokenizer

    check_folder(folder)
    try:
        clip = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        return clip, CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"the CLIP model at {str(folder)!r} cannot be loaded"
            f" ({(str(error) or repr(error)).splitlines()[0]})",
            remedy="Copy it again: config, model.safetensors and tokenizer files",
        ) from error
