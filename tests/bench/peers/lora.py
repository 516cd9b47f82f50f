"""Training a LoRA: our loop against the recipe that is usual with diffusers, through accelerate.

    python -m tests.bench.peers.lora [--base wbc-base] [--steps 60] [--rounds 5]

Both train the same layers of the same base at the same rank, with AdamW, clipping and a batch of
equal size, on the same images of a drawn smear as PNGs. Each training is a process of its own, so
that its peak memory is its own. The recipe comes twice: it encodes the images of every step anew,
as it is usually written, and with latents that were encoded once before the first step.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from tests.bench.peers.tables import print_table, ranged, ratios

DATA, SIZE_PX = "smear:160", 64
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
OURS, FRESH, CACHED = "ours", "recipe", "recipe, cached latents"
RATE = 1e-4


def write_images(folder: Path) -> None:
    """Write the images to learn from, class by class."""
    from factory.real.sources import open_dataset

    cells = open_dataset(DATA)
    pixels = cells.array(SIZE_PX, cells.ids)
    for number, (image, label) in enumerate(zip(pixels, cells.labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / label / f"{number:04d}.png")


def train_ours(base: str, images: Path, steps: int, batch_size: int, rank: int) -> dict[str, float]:
    """Train with the factory's own loop; return seconds before the first step and of the steps."""
    from factory.config import load_config
    from factory.finetune.method import task_of
    from factory.finetune.run import loop_of, prepare
    from factory.methods.text.adapt import adapt
    from factory.methods.text.config import FinetuneConfig
    from factory.methods.text.train import base_of, encoded_part
    from factory.models.generator import find_generator
    from factory.models.pipeline import load_pipeline
    from factory.real.sources import open_dataset
    from tests.fakes.splits import split_of

    begun = time.perf_counter()
    dataset = open_dataset(str(images))
    asked = [
        f"base={base}",
        "separate=false",
        "n_shot=null",
        f"size_px={SIZE_PX}",
        f"lora.rank={rank}",
        f"lora.unet_targets={json.dumps(LAYERS)}",
        "lora.train_text_encoder=false",
        f"training.steps={steps}",
        f"training.batch_size={batch_size}",
        f"training.learning_rate={RATE}",
        "validation.draw_every=null",
    ]
    config = load_config(FinetuneConfig, "cytodiff", asked)
    split = split_of(dataset, train=0.9, val=0.1)
    with tempfile.TemporaryDirectory() as name:
        plan = prepare(config, dataset, split, Path(name))
        found = base_of(plan)
        material = encoded_part(plan, plan.learn, found, load_pipeline(found).vae)
    classes = tuple(sorted(set(material.labels)))
    adaptation = adapt(load_pipeline(find_generator(base)), plan.config, classes)
    loop = loop_of(task_of(adaptation, material), plan.config, None)
    before, cpu = time.perf_counter() - begun, time.process_time()
    *_, last = loop.run()
    cpu = time.process_time() - cpu
    weights = sum(p.numel() for p in adaptation.network.parameters() if p.requires_grad)
    return {"before": before, "seconds": last.seconds, "cpu": cpu, "weights": weights}


class Cells(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """PNGs in folders named by class: pixels in [-1, 1] (3, S, S) and tokens of a prompt."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.paths = sorted(folder.glob("*/*.png"))
        names = {path.parent.name for path in self.paths}
        self.tokens = {name: self._tokens(tokenizer, name) for name in names}

    @staticmethod
    def _tokens(tokenizer: Any, name: str) -> Tensor:
        words = f"a {name.replace('_', ' ')}"
        length = tokenizer.model_max_length
        kept = {"padding": "max_length", "max_length": length, "truncation": True}
        return tokenizer(words, return_tensors="pt", **kept).input_ids[0]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        path = self.paths[row]
        with Image.open(path) as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        signed = pixels.view(SIZE_PX, SIZE_PX, 3).permute(2, 0, 1).float() / 127.5 - 1
        return signed, self.tokens[path.parent.name], row


def train_recipe(
    base: str, images: Path, steps: int, batch_size: int, rank: int, *, cached: bool
) -> dict[str, float]:
    """Train with accelerate and peft; return seconds before the first step and of the steps."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig

    from factory.models.generator import find_generator

    folder = str(find_generator(base).folder)
    begun = time.perf_counter()
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True, dtype=torch.float32
    )
    noises = DDPMScheduler.from_config(pipeline.scheduler.config)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for frozen in (unet, vae, text_encoder):
        frozen.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LAYERS)
        )
    )
    weights = [each for each in unet.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-2)
    cells = Cells(images, pipeline.tokenizer)
    loader = DataLoader(cells, batch_size=batch_size, shuffle=True, drop_last=True)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=steps)
    unet, optimizer, loader, rate = accelerator.prepare(unet, optimizer, loader, rate)

    def encoded(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            latents: Tensor = vae.encode(pixels).latent_dist.sample()
        return latents * vae.config.scaling_factor

    kept: Tensor | None = None
    if cached:
        whole = DataLoader(cells, batch_size=64)
        kept = torch.cat([encoded(pixels) for pixels, _, _ in whole])
    before, cpu = time.perf_counter() - begun, time.process_time()
    begun, step = time.perf_counter(), 0
    while step < steps:
        for pixels, tokens, rows in loader:
            with accelerator.accumulate(unet):
                latents = encoded(pixels) if kept is None else kept[rows]
                noise = torch.randn_like(latents)
                times = torch.randint(0, noises.config.num_train_timesteps, (len(latents),))
                noisy = noises.add_noise(latents, noise, times)
                context = text_encoder(tokens)[0]
                found = unet(noisy, times, context).sample
                loss = F.mse_loss(found, noises.get_velocity(latents, noise, times))
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            loss.item()  # a progress bar shows it
            step += 1
            if step == steps:
                break
    return {
        "before": before,
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - cpu,
        "weights": sum(each.numel() for each in weights),
    }


def peak_mib() -> float:
    """Return this process's peak resident memory; a child's `ru_maxrss` counts its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def child(who: str, *options: object) -> dict[str, float]:
    """Train in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.peers.lora", "--who", who, *map(str, options)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@click.command()
@click.option("--base", default="wbc-base")
@click.option("--steps", default=60)
@click.option("--batch-size", default=8)
@click.option("--rank", default=16)
@click.option("--rounds", default=5)
@click.option("--who", type=click.Choice([OURS, FRESH, CACHED]), hidden=True)
@click.option("--images", type=click.Path(path_type=Path), hidden=True)
def main(
    base: str, steps: int, batch_size: int, rank: int, rounds: int, who: str | None,
    images: Path | None,
) -> None:  # fmt: skip
    """Print images/s, seconds before the first step and peak memory of the three."""
    if who and images:
        if who == OURS:
            told = train_ours(base, images, steps, batch_size, rank)
        else:
            told = train_recipe(base, images, steps, batch_size, rank, cached=who == CACHED)
        print(json.dumps({**told, "mib": peak_mib()}))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, FRESH, CACHED)}
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name))
        options = ("--base", base, "--steps", steps, "--batch-size", batch_size, "--rank", rank)
        for _ in range(rounds):
            for way, own in found.items():
                own.append(child(way, *options, "--images", name))
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}")
    weights = {way: int(own[0]["weights"]) for way, own in found.items()}
    print(f"LoRA of rank {rank} on {base}, {SIZE_PX} px, {steps} steps of {batch_size},"
          f" {rounds} rounds; weights that train: {weights}")  # fmt: skip
    rates = {w: [steps * batch_size / r["seconds"] for r in own] for w, own in found.items()}
    core = {w: [steps * batch_size / r["cpu"] for r in own] for w, own in found.items()}
    rows = [
        [
            way,
            ranged(rates[way], "{:.1f}"),
            ranged(ratios(rates[OURS], rates[way]), "{:.2f}"),
            ranged(core[way], "{:.1f}"),
            ranged(ratios(core[OURS], core[way]), "{:.2f}"),
            ranged([r["before"] for r in own], "{:.1f}"),
            ranged([r["mib"] for r in own], "{:,.0f}"),
        ]
        for way, own in found.items()
    ]
    heads = [
        "training",
        "images/s",
        "ours / it",
        "images a CPU s",
        "ours / it",
        "s before the first step",
        "peak MiB",
    ]
    print_table(heads, rows)


if __name__ == "__main__":
    main()
