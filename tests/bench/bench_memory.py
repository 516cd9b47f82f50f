"""What a training holds: the arithmetic of `factory memory` against the peak of a real one.

    python -m tests.bench.bench_memory [--width 192] [--train full|lora] [--workers 2 ...]

A Stable Diffusion 1.5 U-Net of another width (320 is the original), with random weights, on random
latents. Every worker is a process; its peak resident memory, less what it held once the libraries
were loaded and warm, stands beside the arithmetic.
"""

import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import click
import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from cluster.local import free_ports
from factory.config import parse_config
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.memory import GIB, needs_of
from factory.finetune.order import Part
from factory.finetune.workers import Workers, place
from factory.methods.text.adapt import TextConditioned, text_sketch
from factory.methods.text.config import FinetuneConfig
from factory.models.generator import Generator
from factory.models.lora import attach_lora
from tests.fakes.stable_diffusion import TEXT_ENCODERS, UNETS

STEPS = 3


def configured(folder: Path, width: int, size_px: int) -> Generator:
    """Write the configurations of a base of another width: no weights."""
    text = {**TEXT_ENCODERS["sd-1.5"], "num_hidden_layers": 2}
    unet = {**UNETS["sd-1.5"], "block_out_channels": [width * n for n in (1, 2, 4, 4)]}
    vae = {"block_out_channels": [128, 256, 512, 512]}
    for part, stored in (("unet", unet), ("text_encoder", text), ("vae", vae)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(stored))
    return Generator(name="sd", folder=folder, model_id="sd", manifest={"size_px": size_px})


def train(config: FinetuneConfig, base: Generator, workers: Workers) -> float:
    """Train a few steps and return the bytes of this process's peak above its start."""
    parts = {p: json.loads((base.folder / p / "config.json").read_text()) for p in PARTS}
    warm(parts)
    before = psutil.Process().memory_info().rss
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    network: Any = TextConditioned(
        UNet2DConditionModel.from_config(parts["unet"]),
        CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
    )
    if config.train == "lora":
        attach_lora(network.unet, network.text_encoder, config.lora, seed=0)
    if config.training.gradient_checkpointing:
        network.unet.enable_gradient_checkpointing()
    side, batch = base.size_px // 8, config.training.batch_size

    def loss_of(model: nn.Module, part: Part) -> dict[str, Tensor]:
        mine = len(part.take(range(batch)))
        noise = torch.randn(mine, 4, side, side, generator=torch.Generator().manual_seed(part.step))
        tokens = torch.zeros(mine, 77, dtype=torch.long)
        found = model(noise, torch.zeros(mine, dtype=torch.long), tokens)
        return {"loss": (found - noise).square().mean()}

    loop = Loop(
        place(network.train(), workers),
        loss_of,
        LoopConfig(
            steps=STEPS,
            batch_size=batch,
            learning_rate=1e-4,
            warmup_steps=0,
            decay_steps=0,
            weight_decay=0.01,
            ema_decay=config.training.ema_decay,
            precision=config.training.precision,
        ),
        workers,
    )
    for _ in loop.run():
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


PARTS = ("unet", "text_encoder")


def warm(parts: dict[str, Any]) -> None:
    """Make the libraries allocate what they keep: a step of a narrow network."""
    narrow = {**parts["unet"], "block_out_channels": [32, 32, 32, 32], "cross_attention_dim": 32}
    unet = UNet2DConditionModel.from_config(narrow)
    found = unet(torch.zeros(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, 4, 32)).sample
    torch.autograd.backward(found.sum())
    torch.optim.AdamW(unet.parameters(), fused=True).step()


def work(rank: int, settings: dict[str, Any]) -> None:
    """Be one worker, and write down what it held."""
    torch.set_num_threads(1)
    folder, config = (
        Path(settings["folder"]),
        parse_config(FinetuneConfig, settings["config"], where="bench"),
    )
    manifest = {"size_px": settings["size_px"]}
    base = Generator(name="sd", folder=folder, model_id="sd", manifest=manifest)
    count = config.cluster.most
    if count > 1:
        address = f"tcp://127.0.0.1:{settings['port']}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    workers = Workers(rank=rank, world_size=count, sharding=config.cluster.sharding)
    held = train(config, base, workers)
    (folder / f"held-{rank}").write_text(str(held))
    if count > 1:
        dist.destroy_process_group()


@click.command()
@click.option("--width", default=192, show_default=True)
@click.option("--size-px", default=256, show_default=True)
@click.option("--batch-size", default=2, show_default=True)
@click.option("--train", "kind", type=click.Choice(["full", "lora"]), default="full")
@click.option("--workers", default=1, show_default=True)
@click.option("--sharding", type=click.Choice(["none", "ddp", "fsdp"]), default="none")
@click.option("--checkpointing", is_flag=True)
@click.option("--ema-decay", default=0.999, show_default=True)
def main(
    width: int,
    size_px: int,
    batch_size: int,
    kind: str,
    workers: int,
    sharding: str,
    checkpointing: bool,
    ema_decay: float,
) -> None:
    """Print arithmetic, measured peak, and their ratio (bar: 0.85 .. 1.15)."""
    stored = {
        "name": "bench",
        "train": kind,
        "cluster": {"workers": workers, "sharding": sharding},
        "training": {
            "batch_size": batch_size,
            "gradient_checkpointing": checkpointing,
            "ema_decay": ema_decay,
        },
    }
    with tempfile.TemporaryDirectory() as name:
        base = configured(Path(name), width, size_px)
        config = parse_config(FinetuneConfig, stored, where="bench")
        sketch, ways = text_sketch(config, base, None), [config.cluster.sharding]
        (told,) = needs_of(config, sketch, workers=workers, shardings=ways)
        settings = {
            "folder": name,
            "config": stored,
            "size_px": size_px,
            "port": free_ports(1)[0],
        }
        mp.spawn(work, (settings,), nprocs=workers)
        held = max(float(path.read_text()) for path in Path(name).glob("held-*"))
    print(f"arithmetic {told}")
    print(f"measured {held / GIB:.2f} GiB, arithmetic / measured {told.total / held:.3f}")


if __name__ == "__main__":
    main()
