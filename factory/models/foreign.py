"""LoRA files of other trainers (diffusers, kohya-ss, civitai) on top of a generator.

    generator + file + scale -> a generator with an id of its own, whose weights hold the LoRA

diffusers translates the names of layers and folds the LoRA in; what it would leave out without a
word is refused here, most of it by the file's header, before anything is loaded.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.digest import digest, digest_file
from factory.errors import ConfigError, ModelError
from factory.models.families import Family
from factory.models.folder import read_json
from factory.models.generator import Generator, LoraFile, find_generator

_DOWN = ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight")
"""Ends of names of the first of a layer's two matrices, trainer by trainer."""
_UNREADABLE = {
    "hada_": "a LoHa (LyCORIS)",
    "lokr_": "a LoKr (LyCORIS)",
    "dora_scale": "a DoRA",
    "lora_mid": "a LoCon with a middle matrix",
}
"""Parts of names of what diffusers does not read, or reads in part."""


def find_drawn(
    name: str,
    *,
    revision: str | None = None,
    lora: Path | None = None,
    lora_scale: float | None = None,
) -> Generator:
    """Return the generator of that name under a LoRA file, or its own LoRAs at another scale.

    Raises:
        ConfigError: a scale and nothing that it scales, or no such file.
        ModelError: see `find_generator` and `with_lora`.
    """
    generator = find_generator(name, revision=revision)
    if lora is not None:
        return with_lora(generator, lora, 1.0 if lora_scale is None else lora_scale)
    if lora_scale is None or lora_scale == generator.manifest.get("lora_scale"):
        return generator
    if not generator.adapters:
        raise ConfigError(
            f"lora_scale {lora_scale:g}, and generator {generator.name!r} has no LoRA",
            remedy="Set lora to a LoRA file (.safetensors), or leave lora_scale out",
        )
    return replace(
        generator,
        manifest={**generator.manifest, "lora_scale": lora_scale},
        model_id=digest([generator.model_id, "lora_scale", lora_scale]),
    )


def with_lora(generator: Generator, path: Path, scale: float) -> Generator:
    """Return `generator` with the LoRA in a file folded into its weights when they are loaded.

    Raises:
        ConfigError: no such file, or one that is no safetensors file.
        ModelError: it is damaged, holds something else than a LoRA, or is for other networks.
    """
    if not path.is_file() or path.suffix != ".safetensors":
        what = "there is none" if not path.exists() else "only safetensors files are read"
        raise ConfigError(
            f"lora {str(path)!r}: {what}", remedy="Give the .safetensors file of a LoRA"
        )
    if generator.method != "text":
        raise ModelError(
            f"generator {generator.name!r} is drawn by method {generator.method!r}, and LoRA files"
            " are for text-to-image pipelines",
            remedy="Leave lora out",
        )
    shapes = _shapes(path)
    _check_readable(path, shapes)
    _check_context(path, shapes, generator.weights, generator.family)
    sha = digest_file(path)
    return replace(
        generator,
        lora=LoraFile(path=path, digest=sha, scale=scale),
        model_id=digest([generator.model_id, sha, scale]),
    )


def fold_in(pipeline: Any, lora: LoraFile) -> None:
    """Fold a LoRA file into the weights of a pipeline, and forget it.

    Raises:
        ModelError: it does not fit, wholly or in part.
    """
    path = lora.path
    if not hasattr(pipeline, "load_lora_weights"):
        raise _misfit(path, f"cannot be loaded: {type(pipeline).__name__} takes no LoRA")
    named = {"weight_name": path.name, "adapter_name": "lora", "local_files_only": True}
    try:
        pipeline.load_lora_weights(str(path.parent), use_safetensors=True, **named)
        parts = [n for n in pipeline._lora_loadable_modules if getattr(pipeline, n, None)]
        found = {part: _layers(getattr(pipeline, part)) for part in parts}
        wanted = sum(name.endswith(_DOWN) for name in _shapes(path))
        if sum(found.values()) < wanted:
            raise _misfit(path, f"has {wanted} layers, and {sum(found.values())} of them fit")
        pipeline.fuse_lora([part for part, count in found.items() if count], lora_scale=lora.scale)
        pipeline.unload_lora_weights()
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _misfit(path, f"does not fit ({next(iter(str(error).splitlines()), '')})") from error


def _layers(network: Any) -> int:
    return sum(".lora_A." in name for name, _ in network.named_parameters())


def _shapes(path: Path) -> dict[str, list[int]]:
    """Return name -> shape of the tensors of a file, by its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"LoRA {path} is truncated or no safetensors file ({error})", remedy="Copy it again"
        ) from error


def _check_readable(path: Path, names: Iterable[str]) -> None:
    for part, kind in _UNREADABLE.items():
        if any(part in name for name in names):
            raise _misfit(path, f"is {kind}, which diffusers does not fold in whole")
    if not any(name.endswith(_DOWN) for name in names):
        raise _misfit(path, f"holds no LoRA (but {next(iter(names), 'nothing')})")


def _check_context(path: Path, shapes: dict[str, list[int]], folder: Path, family: Family) -> None:
    """Raise where a LoRA's attention reads prompts of another width than the U-Net's does."""
    if family.denoiser != "unet":
        return
    width = read_json(folder / "unet" / "config.json").get("cross_attention_dim")
    keys = (shape[1] for name, shape in shapes.items() if "attn2" in name and "to_k" in name
            and name.endswith(_DOWN))  # fmt: skip
    told = next((found for found in keys if found != width), None)
    if told is not None and isinstance(width, int):
        known = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
        of = f" ({known[told]})" if told in known else ""
        raise _misfit(path, f"is for prompts of width {told}{of}, the U-Net takes {width}")


def _misfit(path: Path, what: str) -> ModelError:
    return ModelError(
        f"LoRA {path} {what}", remedy="Give a LoRA that was trained on this very kind of model"
    )
