"""LoRA: few trainable weights beside a frozen network, their file, and their way into a base.

Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021: a frozen weight W
becomes W + (alpha / rank) B A with A (rank, in) Gaussian and B (out, rank) zero at the start. A
convolution's A is one of its own size to `rank` channels and its B a 1x1 one, as peft has it: they
fold into its weight in the same way. The file is diffusers', with its provenance in the header.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from factory.atomic import write_bytes
from factory.config import Frozen
from factory.digest import canonical_json, digest
from factory.errors import ConfigError, ModelError
from factory.models.config import LoraSettings
from factory.models.generator import LORA_FILE
from factory.models.shards import whole

_log = logging.getLogger(__name__)
PARTS = ("unet", "transformer", "text_encoder")
"""Parts of a pipeline that a LoRA of ours changes."""


def attach_lora(
    unet: nn.Module, text_encoder: nn.Module, settings: LoraSettings, *, seed: int
) -> int:
    """Freeze both networks, add float32 LoRA layers in place, return how many values train.

    Initial weights depend on `seed` and the layer's name alone: equal in every process.

    Raises:
        ConfigError: a target that names no layer, or one that is not linear.
    """
    unet.requires_grad_(False)
    text_encoder.requires_grad_(False)
    count = add_lora(unet, settings.unet_targets, settings, seed=seed)
    if settings.train_text_encoder:
        count += add_lora(text_encoder, settings.text_targets, settings, seed=seed)
    _log.info("LoRA of rank %d: %d trainable parameters", settings.rank, count)
    return count


def lora_parameter_count(network: nn.Module, targets: tuple[str, ...], rank: int) -> int:
    """Return rank * (inputs + out), summed over the target layers of a network without LoRA.

    A convolution's inputs are its channels times its kernel's places.

    Raises:
        ConfigError: a target that names no layer, or one of another kind.
    """
    layers: dict[str, nn.Module] = {}
    for target in targets:
        found = {n: m for n, m in network.named_modules() if f".{n}".endswith(f".{target}")}
        if not found or any(lora_weight(layer) is None for layer in found.values()):
            raise ConfigError(
                f"LoRA target {target!r} names no linear layer or convolution of"
                f" {type(network).__name__}",
                remedy="Use ends of module names, such as to_q (U-Net) or q_proj (text encoder)",
            )
        layers |= found
    weights = [weight for layer in layers.values() if (weight := lora_weight(layer)) is not None]
    return sum(rank * (weight[0].numel() + len(weight)) for weight in weights)


def lora_weight(layer: nn.Module | None) -> Tensor | None:
    """Return the weight that a LoRA on this layer changes; None where there can be none."""
    grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
    return layer.weight if isinstance(layer, nn.Linear | nn.Conv2d) and not grouped else None


def trainable_parameters(*networks: nn.Module) -> list[nn.Parameter]:
    """Return what an optimiser gets: after `attach_lora` the LoRA weights and nothing else."""
    return [p for network in networks for p in network.parameters() if p.requires_grad]


def lora_tensors(unet: nn.Module, text_encoder: nn.Module) -> dict[str, Tensor]:
    """Return the LoRA weights in float32 on the CPU, by the names that diffusers' files use.

    Sharded weights are gathered, so with FSDP every worker must call it. The text encoder's names
    start with 'text_model.', as files of the field do whatever the version of transformers.
    """
    return part_tensors("unet", unet) | part_tensors("text_encoder.text_model", text_encoder)


def part_tensors(part: str, network: nn.Module) -> dict[str, Tensor]:
    """Return the LoRA weights of one network, named as a `part` of its pipeline's file."""
    return {
        f"{part}.{name.removeprefix('text_model.').replace('.default.', '.')}": whole(value)
        .detach()
        .float()
        .cpu()
        .contiguous()
        for name, value in network.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def folded_state(network: nn.Module, settings: LoraSettings) -> dict[str, Tensor]:
    """Return the state of a network with its LoRA folded in, by the names it has without one."""
    state = network.state_dict()
    folded = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        place, layer, end = name.partition(".base_layer.")
        if layer and end == "weight":
            down, up = (whole(state[f"{place}.lora_{k}.default.weight"]) for k in "AB")
            value = whole(value) + settings.scaling * lora_product(down, up).reshape(value.shape)
        folded[f"{place}.{end}" if layer else name] = value
    return folded


def lora_product(down: Tensor, up: Tensor) -> Tensor:
    """Return B A in float32, (out, in): `down` is A, `up` is B."""
    return up.float().flatten(1) @ down.float().flatten(1)


def add_lora(
    network: nn.Module, targets: tuple[str, ...], settings: LoraSettings, *, seed: int
) -> int:
    """Add float32 LoRA layers to one network in place; return how many values train.

    Raises:
        ConfigError: a target that names no layer, or one that is neither linear nor a convolution.
    """
    from peft import LoraConfig

    count = lora_parameter_count(network, targets, settings.rank)
    add: Any = network.add_adapter
    with torch.random.fork_rng(devices=[]):  # peft draws weights too; they are replaced below
        add(LoraConfig(**settings.peft_config(targets), init_lora_weights="gaussian"))
    for name, parameter in network.named_parameters():
        if ".lora_A." in name:
            key = int(digest([seed, name])[:15], 16)
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(key))
            parameter.data = (values / settings.rank).to(parameter.device)
        elif ".lora_B." in name:
            parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
    return count


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
    if any(name.startswith("transformer.") for name in tensors):
        adapters = {"transformer": settings.unet_targets}
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
    network = getattr(pipeline, part, None) if part in PARTS else None
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
