"""A generator's diffusers pipeline, loaded with our layers and settings."""

from typing import Any

import torch

from factory.errors import ModelError
from factory.method import find_method
from factory.models.attention_layout import unet_file, window_of
from factory.models.families import STABLE_DIFFUSION
from factory.models.folder import read_json, variant_of
from factory.models.foreign import fold_in
from factory.models.generator import Generator
from factory.models.windowed import set_attention_window
from factory.terminal import quiet_libraries

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pipeline(generator: Generator, *, dtype: str = "float32") -> Any:
    """Return the generator's diffusers pipeline, in eval mode.

    Raises:
        ModelError: diffusers cannot load the folder, or draws no images from text with it.
    """
    import factory.models.patch_autoencoder  # noqa: F401 -- diffusers looks only among what is imported

    own, kind, extra = _kind(generator)
    try:
        with quiet_libraries():
            pipeline = kind.from_pretrained(
                generator.folder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                local_files_only=True,
                variant=variant_of(generator.folder),
                **extra,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"generator {generator.name!r} in {generator.folder} cannot be loaded ({error})",
            remedy="Restore its files as save_pretrained or the factory wrote them, with all parts"
            " that model_index.json lists",
        ) from error
    if own and (window := window_of(unet_file(generator.folder))):
        set_attention_window(pipeline.unet, window)
    if generator.lora is not None:
        with quiet_libraries():
            fold_in(pipeline, generator.lora)
    return pipeline


def load_autoencoder(generator: Generator) -> Any:
    """Return the generator's autoencoder in float32, in eval mode, without the rest if that can be.

    Raises:
        ModelError: see `load_pipeline`.
    """
    if generator.family is STABLE_DIFFUSION:  # it may be one of ours
        return load_pipeline(generator).vae
    import diffusers

    folder = generator.folder / "vae"
    kind = getattr(diffusers, str(read_json(folder / "config.json").get("_class_name")))
    with quiet_libraries():
        return kind.from_pretrained(
            folder, use_safetensors=True, variant=variant_of(generator.folder)
        ).eval()


def _kind(generator: Generator) -> tuple[bool, Any, dict[str, Any]]:
    """Return whether a pipeline is one that is drawn part by part, its class, and what it takes.

    Of other families diffusers finds the class itself.
    """
    if generator.family is STABLE_DIFFUSION:
        return True, *find_method(generator.method).pipeline()
    from diffusers import DiffusionPipeline

    return False, DiffusionPipeline, {}
