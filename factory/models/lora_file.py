"""LoRA on disk: diffusers' file with its provenance in the header, checked and fused on loading."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from factory.atomic import write_bytes
from factory.config import Frozen
from factory.digest import canonical_json
from factory.errors import ModelError
from factory.models.config import LoraSettings
from factory.models.generator import LORA_FILE
from factory.models.lora import lora_product, lora_weight

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class LoraNotes(Frozen):
    """What a LoRA file says of itself, in its safetensors header."""

    base_model_id: str
    """`model_id` of the generator it was trained on, and the only one it fits."""
    dataset_fingerprint: str
    split_digest: str
    ids_digest: str
    """Digest of the ids of its training images."""
    class_names: tuple[str, ...]
    settings: LoraSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA file in memory; `tensors` as `lora_tensors` names them."""

    path: Path
    notes: LoraNotes
    tensors: Mapping[str, Tensor]


def save_lora(folder: Path, tensors: Mapping[str, Tensor], notes: LoraNotes) -> Path:
    """Write `folder/pytorch_lora_weights.safetensors` atomically; equal content, equal bytes."""
    settings = notes.settings
    adapters = {"unet": settings.unet_targets, "text_encoder": settings.text_targets}
    peft = {
        f"{part}.{key}": value
        for part, targets in adapters.items()
        for key, value in settings.peft_config(targets).items()
    }
    metadata = {
        "format": "pt",
        "factory": notes.model_dump_json(),
        "lora_adapter_metadata": canonical_json(peft),  # diffusers takes alpha = rank without it
    }
    path = Path(folder) / LORA_FILE
    write_bytes(path, _sorted_header(save(dict(tensors), metadata=metadata)))
    return path


def open_lora(folder: Path) -> Lora:
    """Read the LoRA in `folder`.

    Raises:
        ModelError: missing, truncated, or written by something else.
    """
    path = Path(folder) / LORA_FILE
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get("factory", "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = LoraNotes.model_validate_json(stored)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"LoRA {path} is missing, truncated or no safetensors file ({error})",
            remedy="Copy it again, or train it again",
        ) from error
    except ValidationError as error:
        raise ModelError(
            f"LoRA {path} does not say on which base, data and split it was trained",
            remedy="Use one that `factory finetune` wrote",
        ) from error
    return Lora(path=path, notes=notes, tensors=tensors)


@torch.no_grad()
def fuse_lora(pipeline: Any, lora: Lora, *, base_model_id: str, scale: float = 1.0) -> None:
    """Fold `scale` times the LoRA into the weights of `pipeline`, in place.

    Fused, because a fused pipeline has the modules, the speed and the determinism of its base and
    rounds once; an adapter would add two small products to every attention of every step.

    Args:
        pipeline: of the base alone; any dtype and device.
        lora: from `open_lora`.
        base_model_id: `model_id` of the generator that `pipeline` was loaded from.
        scale: 0 is the base, 1 the LoRA as trained.

    Raises:
        ModelError: a LoRA of another base, or its layers are not those of the pipeline.
    """
    if lora.notes.base_model_id != base_model_id:
        raise ModelError(
            f"LoRA {lora.path} was trained on base {lora.notes.base_model_id},"
            f" this base is {base_model_id}",
            remedy="Load the base it was trained on, or train a LoRA on this one",
        )
    changes = list(_changes(pipeline, lora))  # all are checked before the first is made
    for weight, down, up in changes:
        product = lora_product(down, up).reshape(weight.shape)
        change = scale * lora.notes.settings.scaling * product
        weight.copy_(weight.float() + change.to(weight.device))


def _changes(pipeline: Any, lora: Lora) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (weight, A, B) of every layer that the LoRA changes, checked."""
    rank = lora.notes.settings.rank
    places = [key.removesuffix(_DOWN) for key in lora.tensors if key.endswith(_DOWN)]
    odd = set(lora.tensors) ^ {place + end for place in places for end in (_DOWN, _UP)}
    if odd or not places:
        raise _misfit(lora, f"has unpaired or foreign tensors ({min(odd, default='it is empty')})")
    for place in places:
        down, up = lora.tensors[place + _DOWN], lora.tensors[place + _UP]
        weight = _weight(pipeline, place)
        if weight is None:
            raise _misfit(lora, f"changes {place}, which is no layer of the base that can have one")
        ones = (1,) * (weight.dim() - 2)  # B of a convolution is a 1x1 one
        wanted = [(weight.shape[0], rank, *ones), (rank, *weight.shape[1:])]
        if (shapes := [tuple(up.shape), tuple(down.shape)]) != wanted:
            raise _misfit(lora, f"has B and A of shapes {shapes} for {place}, wanted {wanted}")
        yield weight, down, up


def _weight(pipeline: Any, place: str) -> Tensor | None:
    part, _, name = place.partition(".")
    network = getattr(pipeline, part, None) if part in ("unet", "text_encoder") else None
    layers = dict(network.named_modules()) if network is not None else {}
    return lora_weight(layers.get(name) or layers.get(name.removeprefix("text_model.")))


def _misfit(lora: Lora, what: str) -> ModelError:
    return ModelError(
        f"LoRA {lora.path} {what}", remedy="The file was altered: copy it or train it again"
    )


def _sorted_header(data: bytes) -> bytes:
    """Return the same safetensors file with its header in canonical order.

    safetensors 0.8 writes metadata in another order on every run; a model id needs equal bytes.
    """
    length = int.from_bytes(data[:8], "little")
    header = canonical_json(json.loads(data[8 : 8 + length])).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
