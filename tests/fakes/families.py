"""Tiny pipelines of the families of today, made of diffusers' own classes with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from factory.models.conditioning import prompt_tokenizer, small_text_encoder

WIDTH = 8
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_pipeline(name: str, folder: Path) -> Path:
    """Write the pipeline of a family into `folder`, with nothing of ours; return it."""
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    pipeline = PIPELINES[name]()
    pipeline.save_pretrained(folder)
    return folder


def _stable_diffusion() -> Any:
    return StableDiffusionPipeline(
        unet=_unet(WIDTH),
        **_kl(),
        **_clip(),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _latent_consistency() -> Any:
    return LatentConsistencyModelPipeline(
        unet=_unet(WIDTH, time_cond_proj_dim=8),
        **_kl(),
        **_clip(),
        scheduler=LCMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    }
    return StableDiffusionXLPipeline(
        unet=_unet(2 * WIDTH, **added),
        **_kl(),
        **_clip(),
        **_projecting("2"),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


def _sd3() -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        **_kl(shift_factor=0.06),
        **_projecting(""),
        **_projecting("2"),
        **_t5("3"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux() -> Any:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        transformer=transformer,
        **_kl(shift_factor=0.1),
        **_clip(),
        **_t5("2"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _pixart() -> Any:
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        norm_num_groups=2,
    )
    return PixArtAlphaPipeline(
        transformer=transformer,
        **_kl(),
        **_t5(""),
        scheduler=DPMSolverMultistepScheduler(),
    )


def _sana() -> Any:
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
    )
    gemma = Gemma2Model(
        Gemma2Config(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {token: number for number, token in enumerate([*special, "▁", *LETTERS])}
    return SanaPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=gemma.eval(),
        tokenizer=GemmaTokenizer(vocab=vocab),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _unet(context: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=2,
        **more,
    )


def _kl(**more: Any) -> dict[str, Any]:
    vae = AutoencoderKL(
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
        **more,
    )
    return {"vae": vae}


def _clip() -> dict[str, Any]:
    tokenizer = prompt_tokenizer(["a an cell nucleus red"])
    encoder = small_text_encoder(tokenizer, width=WIDTH).eval()
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def _projecting(number: str) -> dict[str, Any]:
    tokenizer = prompt_tokenizer(["a an cell nucleus red"])
    config = small_text_encoder(tokenizer, width=WIDTH).config
    encoder = CLIPTextModelWithProjection(config).eval()
    end = f"_{number}" if number else ""
    return {f"tokenizer{end}": tokenizer, f"text_encoder{end}": encoder}


def _t5(number: str) -> dict[str, Any]:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    tokenizer = T5Tokenizer(
        vocab=[*special, *((letter, -2.0) for letter in f"▁{LETTERS}")], extra_ids=0
    )
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_decoder=False
    )
    end = f"_{number}" if number else ""
    return {f"tokenizer{end}": tokenizer, f"text_encoder{end}": T5EncoderModel(config).eval()}


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd": _stable_diffusion,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
    "sana": _sana,
    "lcm": _latent_consistency,
}
SIZES = {"sana": 32}
"""Of those that are not drawn at 16 px."""
