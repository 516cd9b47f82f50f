"""Families of text-to-image models: what a pipeline's class needs to be drawn with and trained.

A family is a line of `FAMILIES`. A pipeline of none of them is drawn by the generic path, an image
at a time. Nothing here loads a weight: what does not fit is refused before Ray starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.errors import ModelError
from factory.models.folder import INDEX, MANIFEST, read_json

_QKVO = ("to_q", "to_k", "to_v", "to_out.0")
_POOLED = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What pipelines of these classes have in common."""

    name: str
    pipelines: tuple[str, ...]
    """Classes of diffusers, as `model_index.json` names them."""
    denoiser: str = "unet"
    """The part that predicts: 'unet' or 'transformer'."""
    embeds: tuple[str, ...] = ()
    """What `encode_prompt` returns, by the names under which `__call__` takes it; empty: prompts
    are given as they are."""
    guided: bool = True
    """Guidance is classifier-free; else the network is told its scale, and has no negative."""
    packs: bool = False
    """The denoiser sees 2 x 2 places of the latents as one token."""
    size_px: int | None = None
    """Side of the images where no configuration says it."""
    multiple_px: int = 8
    """Sides of images are multiples of it."""
    tokens: Mapping[str, int | None] = field(default_factory=dict)
    """Tokenizer that reads most of a prompt -> how many tokens; None: as its own files say."""
    targets: tuple[str, ...] = ()
    """Layers that a LoRA changes where none are named; empty: it is not trained here."""


STABLE_DIFFUSION = Family(
    name="Stable Diffusion 1.x/2.x",
    pipelines=("StableDiffusionPipeline",),
    tokens={"tokenizer": None},
    targets=_QKVO,
)
"""The one that is drawn and trained part by part, as all generators from scratch are."""

GENERIC = Family(name="other", pipelines=(), denoiser="transformer")

FAMILIES: tuple[Family, ...] = (
    STABLE_DIFFUSION,
    Family(
        name="SDXL",
        pipelines=("StableDiffusionXLPipeline",),
        embeds=_POOLED,
        tokens={"tokenizer": None},
        targets=_QKVO,
    ),
    Family(
        name="Stable Diffusion 3",
        pipelines=("StableDiffusion3Pipeline",),
        denoiser="transformer",
        embeds=_POOLED,
        multiple_px=16,
        tokens={"tokenizer_3": 256, "tokenizer": None},
        targets=(*_QKVO, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    ),
    Family(
        name="FLUX.1",
        pipelines=("FluxPipeline",),
        denoiser="transformer",
        embeds=("prompt_embeds", "pooled_prompt_embeds"),
        guided=False,
        packs=True,
        size_px=1024,
        multiple_px=16,
        tokens={"tokenizer_2": 512},
        targets=(*_QKVO, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    ),
    Family(
        name="PixArt-alpha",
        pipelines=("PixArtAlphaPipeline",),
        denoiser="transformer",
        embeds=_MASKED,
        multiple_px=16,
        tokens={"tokenizer": 120},
    ),
    Family(
        name="PixArt-sigma",
        pipelines=("PixArtSigmaPipeline",),
        denoiser="transformer",
        embeds=_MASKED,
        multiple_px=16,
        tokens={"tokenizer": 300},
    ),
    Family(
        name="Sana",
        pipelines=("SanaPipeline",),
        denoiser="transformer",
        embeds=_MASKED,
        multiple_px=32,
        tokens={"tokenizer": 300},
    ),
)


def family_of(folder: Path) -> Family:
    """Return the family of a generator's folder, by the class in its `model_index.json`.

    One that names no class is Stable Diffusion's.

    Raises:
        ModelError: its pipeline draws no images from text alone.
    """
    path = folder / INDEX
    named = str(read_json(path).get("_class_name", "")) if path.is_file() else ""
    if not named:
        return STABLE_DIFFUSION
    if (family := family_named(named)) is GENERIC:
        _check_draws(named, folder)
    return family


def family_named(name: str) -> Family:
    """Return the family of pipelines of that class; `GENERIC` of those that none names."""
    return next((family for family in FAMILIES if name in family.pipelines), GENERIC)


def learnt_flow(folder: Path) -> bool:
    """Return whether a model learnt a flow from noise to images, x_t = (1 - t) x + t noise.

    Else it learnt a diffusion. Its scheduler says so.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    stored = read_json(path) if path.is_file() else {}
    of_flows = str(stored.get("_class_name", "")).startswith("FlowMatch")
    return of_flows or stored.get("prediction_type") == "flow_prediction"


def side_px(folder: Path) -> int:
    """Return the side of the images of a folder without a manifest, as its configurations say.

    Raises:
        ModelError: none says.
    """
    family = family_of(folder)
    if family.size_px is not None:
        return family.size_px
    path = folder / family.denoiser / "config.json"
    stored = read_json(path) if path.is_file() else {}
    side_latent = stored.get("sample_size")
    if not isinstance(side_latent, int):
        raise ModelError(
            f"{path} gives no sample_size ({side_latent!r})",
            remedy=f"Write size_px, the side of the images, into {folder / MANIFEST}, or set it in"
            " the configuration",
        )
    return (8 if family is STABLE_DIFFUSION else shrinkage_of(folder)) * side_latent


def shrinkage_of(folder: Path) -> int:
    """Return how many pixels wide a place of the latents is."""
    path = folder / "vae" / "config.json"
    stored: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    levels = stored.get("encoder_block_out_channels") or stored.get("block_out_channels")
    return int(2 ** (len(levels) - 1)) if levels else 8


def is_guided(family: Family, folder: Path) -> bool:
    """Return whether the guidance scale changes an image: a network may not ask for it at all."""
    path = folder / family.denoiser / "config.json"
    return family.guided or bool(read_json(path).get("guidance_embeds"))


def _check_draws(name: str, folder: Path) -> None:
    """Raise unless diffusers draws images from text with this class.

    Raises:
        ModelError: naming what it is for, as far as diffusers knows it.
    """
    import diffusers
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    known = {kind.__name__ for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    if name in known and "Control" not in name:
        return
    why = "needs a control image" if name in known else "draws no images from text"
    if not hasattr(diffusers, name):
        why = "the installed diffusers does not know"
    raise ModelError(
        f"generator {folder} is a {name}, which {why}",
        remedy="Give a folder that diffusers' AutoPipelineForText2Image loads, or one trained here",
    )
