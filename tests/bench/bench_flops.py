"""What drawing an image and a step of LoRA training cost at least, for the models people use.

    python -m tests.bench.bench_flops

Counts floating-point operations of the real networks, built on torch's meta device from their
published configurations (no weights, no memory), and divides by what data sheets say of GPUs. A
lower bound, not a measurement: nothing here has run on a GPU. The larger of two times counts:
operations / peak, bytes of weights / bandwidth. Text encoders are left out, as a prompt is encoded
once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.utils import logging
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from factory.terminal import rate

GPUS = {"H100": (989e12, 3.35e12), "A100": (312e12, 2.04e12), "L4": (121e12, 0.30e12)}
"""Peak of bfloat16 without sparsity (operations a second) and bandwidth (bytes a second) of the
SXM cards of 80 GB and of the L4, from NVIDIA's data sheets."""
BATCH = 8
BYTES = 2  # of a weight in bfloat16

Forward = Callable[[nn.Module, int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A published model: its denoiser, how it is called for a batch, and how it is drawn with."""

    name: str
    size_px: int
    latent_channels: int
    steps: int
    guided: bool
    """Twice as many evaluations: classifier-free guidance."""
    build: Callable[[], nn.Module]
    forward: Forward

    @property
    def evaluations(self) -> int:
        """Of the denoiser, for an image."""
        return self.steps * (1 + self.guided)


def empty(*shape: int) -> Tensor:
    """Return a tensor without values."""
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def latents(model_px: int, channels: int, batch: int) -> Tensor:
    """Return latents (B, C, H/8, W/8)."""
    return empty(batch, channels, model_px // 8, model_px // 8)


def sd21(net: nn.Module, batch: int) -> object:
    """Call the U-Net of Stable Diffusion 2.1 at 512 px."""
    return net(latents(512, 4, batch), empty(batch), empty(batch, 77, 1024))


def sdxl(net: nn.Module, batch: int) -> object:
    """Call the U-Net of SDXL at 1024 px."""
    added = {"text_embeds": empty(batch, 1280), "time_ids": empty(batch, 6)}
    words = empty(batch, 77, 2048)
    return net(latents(1024, 4, batch), empty(batch), words, added_cond_kwargs=added)


def sd35(net: nn.Module, batch: int) -> object:
    """Call the transformer of Stable Diffusion 3.5 medium at 1024 px: 77 + 256 words."""
    return net(latents(1024, 16, batch), empty(batch, 333, 4096), empty(batch, 2048), empty(batch))


def flux(net: nn.Module, batch: int) -> object:
    """Call the transformer of FLUX.1 dev at 1024 px: 64 x 64 patches, 512 words."""
    return net(
        hidden_states=empty(batch, 4096, 64),
        encoder_hidden_states=empty(batch, 512, 4096),
        pooled_projections=empty(batch, 768),
        timestep=empty(batch),
        img_ids=empty(4096, 3),
        txt_ids=empty(512, 3),
        guidance=empty(batch),
    )


MODELS = (
    Model(
        name="SD 2.1, 512 px", size_px=512, latent_channels=4, steps=20, guided=True, forward=sd21,
        build=lambda: UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024,
            use_linear_projection=True,
        ),
    ),
    Model(
        name="SDXL, 1024 px", size_px=1024, latent_channels=4, steps=30, guided=True, forward=sdxl,
        build=lambda: UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
    ),
    Model(
        name="SD 3.5 medium, 1024 px", size_px=1024, latent_channels=16, steps=40, guided=True,
        forward=sd35,
        build=lambda: SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24,
            attention_head_dim=64, num_attention_heads=24, joint_attention_dim=4096,
            caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        ),
    ),
    Model(
        name="FLUX.1 dev, 1024 px", size_px=1024, latent_channels=16, steps=28, guided=False,
        forward=flux,
        build=lambda: FluxTransformer2DModel(
            patch_size=1, in_channels=64, num_layers=19, num_single_layers=38,
            attention_head_dim=128, num_attention_heads=24, joint_attention_dim=4096,
            pooled_projection_dim=768, guidance_embeds=True,
        ),
    ),
)  # fmt: skip


def counted(call: Callable[[], object]) -> float:
    """Return the floating-point operations of a call: two for each multiply and add."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops())


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network without values, in bfloat16."""
    with torch.device("meta"):
        return build().to(torch.bfloat16).eval()


def autoencoder(channels: int) -> nn.Module:
    """Return the autoencoder that all of these models have, with so many latent channels."""
    return on_meta(
        lambda: AutoencoderKL(
            latent_channels=channels,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )


def limits(model: Model) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the row of drawing and the row of training of a model."""
    net, vae = on_meta(model.build), autoencoder(model.latent_channels)
    weights = sum(p.numel() for p in net.parameters())
    one = counted(lambda: model.forward(net, 1))
    small = latents(model.size_px, model.latent_channels, 1)
    decode = counted(lambda: vae.decode(small))
    drawn = model.evaluations * one + decode
    read = model.evaluations * weights * BYTES / BATCH
    most = [1 / max(drawn / peak, read / bandwidth) for peak, bandwidth in GPUS.values()]
    facts = [f"{weights / 1e9:.2f}", f"{one / 1e12:.2f}", f"{decode / 1e12:.1f}"]
    calls = f"{model.steps} x 2" if model.guided else str(model.steps)
    drawing = [model.name, *facts, calls, f"{drawn / 1e12:,.0f}", *map(rate, most)]
    # LoRA: forward, the same again where activations are recomputed, and the gradient of
    # activations; frozen weights have no gradient of their own.
    step = 3 * one
    training = [model.name, f"{step / 1e12:.1f}", *(rate(p / step) for p, _ in GPUS.values())]
    yield drawing, training


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the tables of docs/speed.md."""
    logging.set_verbosity_error()
    both = [rows for model in MODELS for rows in limits(model)]
    heads = ["model", "G weights", "TFLOP a call", "to decode", "calls", "TFLOP an image"]
    print(table([*heads, *GPUS], [drawing for drawing, _ in both]), end="\n\n")
    print(table(["model", "TFLOP an image", *GPUS], [training for _, training in both]))


if __name__ == "__main__":
    main()
