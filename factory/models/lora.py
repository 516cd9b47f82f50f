"""LoRA in training: few trainable weights beside a frozen U-Net and text encoder.

Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021: a frozen weight W
becomes W + (alpha / rank) B A with A (rank, in) Gaussian and B (out, rank) zero at the start. A
convolution's A is one of its own size to `rank` channels and its B a 1x1 one, as peft has it: they
fold into its weight in the same way.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from factory.digest import digest
from factory.errors import ConfigError
from factory.models.config import LoraSettings
from factory.models.shards import whole

_log = logging.getLogger(__name__)


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
    tensors = {}
    for part, network in (("unet", unet), ("text_encoder.text_model", text_encoder)):
        for name, value in network.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                place = name.removeprefix("text_model.").replace(".default.", ".")
                tensors[f"{part}.{place}"] = whole(value).detach().float().cpu().contiguous()
    return tensors


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
