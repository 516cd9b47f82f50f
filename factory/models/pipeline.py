"""A generator's diffusers pipeline, loaded with our layers and settings."""

from typing import Any

import torch

from factory.errors import ModelError
from factory.method import find_method
from factory.models.attention_layout import unet_file, window_of
from factory.models.generator import Generator
from factory.models.windowed import set_attention_window
from factory.terminal import quiet_libraries

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pipeline(generator: Generator, *, dtype: str = "float32") -> Any:
    """Return the generator's diffusers pipeline, in eval mode.

    Raises:
        ModelError: diffusers cannot load the folder.
    """
    import factory.models.patch_autoencoder  # noqa: F401 -- diffusers looks only among what is imported

    kind, extra = find_method(generator.method).pipeline()
    try:
        with quiet_libraries():
            pipeline = kind.from_pretrained(
                generator.folder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                local_files_only=True,
                **extra,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"generator {generator.name!r} in {generator.folder} cannot be loaded ({error})",
            remedy="Give a Stable Diffusion 1.x/2.x style diffusers folder, or one trained here",
        ) from error
    if window := window_of(unet_file(generator.folder)):
        set_attention_window(pipeline.unet, window)
    return pipeline
