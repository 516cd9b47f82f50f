"""Pairs: style guidance in batches against one image at a time; inpainting against a plain loop.

python -m tests.bench.bench_pairs [--model POLYPS] [--num-images 32] [--rounds 3]

Without --model an untrained network of the preset's size: times do not depend on weights. Real
images are drawn discs. The original's style loop leads one image at a time and computes all it
compares with, target and source, anew at every step.
"""

import tempfile
import time
from pathlib import Path

import click
import torch
from PIL import Image

from factory.methods.pairs import style
from factory.models.generator import Generator, find_generator
from factory.models.pair_codec import PairCodec, to_indices
from factory.models.pipeline import load_pipeline
from factory.sample import loop as w
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan
from factory.sample.references import References, open_references
from factory.sample.schedulers import make_scheduler
from factory.sample.session import ray_session
from tests.bench.bench_stream import stream_once
from tests.bench.timing import alternate, told
from tests.fakes.pair_generator import tiny_pairs
from tests.fakes.pairs import write_pairs

STYLE = {"patch": 0.5, "target": 5, "source": 5, "range": 1, "skip_timesteps": 2}
BATCH, SIZE = 16, 64


def untrained(folder: Path) -> Generator:
    """Write a network of the size of the preset's, 4.6 M parameters."""
    return tiny_pairs(
        folder,
        sample_size=SIZE // 2,
        fold=2,
        block_out_channels=(64, 128, 128),
        attention_head_dim=32,
        norm_num_groups=32,
        manifest={"size_px": SIZE},
    )


class _Forgetful(style.Terms):
    """The original's loop: what is compared with is computed anew at every step."""

    def total(self, *args: object) -> torch.Tensor:
        self.__post_init__()
        return super().total(*args)  # type: ignore[arg-type]


def style_rate(engine: Engine, config: GenerateConfig, references: References) -> float:
    """Return images/s of styled pairs, drawn in batches of the configuration's size."""
    plan = make_plan(config, engine.generator, references)
    begun = time.perf_counter()
    for batch in plan.batches():
        engine.draw(batch)
    return plan.num_images / (time.perf_counter() - begun)


def original_rate(engine: Engine, config: GenerateConfig, references: References) -> float:
    """Return the same of the original's loop."""
    kept, style.Terms = style.Terms, _Forgetful  # type: ignore[misc]
    try:
        alone = config.model_copy(update={"batch_size": 1, "num_images": max(4, BATCH // 4)})
        return style_rate(engine, alone, references)
    finally:
        style.Terms = kept  # type: ignore[misc]


@torch.no_grad()
def plain_inpaint_rate(generator: Generator, config: GenerateConfig, real: References) -> float:
    """Return images/s of RePaint as people write it: a loop over batches, PIL images out."""
    pipeline = load_pipeline(generator)
    unet, steps = pipeline.unet, config.num_inference_steps
    codec = PairCodec(num_classes=2, fold=unet.config.fold)
    solver = make_scheduler("ddpm", pipeline.scheduler.config, steps)
    alphas = solver.alphas_cumprod[solver.timesteps.flip(0)]
    moves = w.repaint_moves(steps, jump_length=5, repeats=2)
    shown = [real.get(image_id, SIZE, masks=True) for image_id in real.ids]
    begun = time.perf_counter()
    for start in range(0, config.num_images, BATCH):
        batch = [shown[(start + number) % len(shown)] for number in range(BATCH)]
        images = torch.stack([torch.from_numpy(each.image / 127.5 - 1) for each in batch])
        masks = torch.stack([torch.from_numpy(each.mask // 255) for each in batch])
        known = codec.encode(images.permute(0, 3, 1, 2).float(), masks)
        inside = codec.spread(torch.nn.functional.max_pool2d(masks[:, None].float(), 5, 1, 2)[:, 0])
        sample, index = torch.randn_like(known), steps - 1
        for move in moves:
            if move == w.UP:
                kept = alphas[index + 1] / alphas[index] if index >= 0 else alphas[0]
                sample = kept.sqrt() * sample + (1 - kept).sqrt() * torch.randn_like(sample)
            else:
                alpha = alphas[index]
                noisy = alpha.sqrt() * known + (1 - alpha).sqrt() * torch.randn_like(known)
                sample = inside * sample + (1 - inside) * noisy
                timestep = solver.timesteps[steps - 1 - index]
                sample = solver.step(unet(sample, timestep).sample, timestep, sample).prev_sample
            index += move
        drawn, planes = codec.decode(sample)
        for each, mask in zip(drawn, to_indices(planes), strict=True):
            pixels = ((each.clamp(-1, 1) + 1) * 127.5).round().byte()
            Image.fromarray(pixels.permute(1, 2, 0).numpy())
            Image.fromarray(mask.numpy())
    return config.num_images / (time.perf_counter() - begun)


@click.command()
@click.option("--model", help="A generator of pairs of 64 px.")
@click.option("--num-images", default=64)
@click.option("--rounds", default=3)
def main(model: str | None, num_images: int, rounds: int) -> None:
    """Print the rates and their ratios."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        generator = find_generator(model) if model else untrained(folder / "model")
        data, split = write_pairs(folder, count=10, size_px=SIZE)
        references = open_references(data, split)
        base = GenerateConfig(
            model=str(generator.folder),
            data=data,
            split=split,
            num_images=BATCH,
            guidance_scale=1,
            num_inference_steps=8,
            scheduler="ddpm",
            batch_size=BATCH,
            seed=1,
            options={"style": STYLE},
        )
        engine = Engine(generator, references=references)
        alone = base.model_copy(update={"batch_size": 1})
        style_rate(engine, alone, references)  # warm
        batched, single = alternate(
            lambda: style_rate(engine, base, references),
            lambda: style_rate(engine, alone, references),
            rounds=rounds,
        )
        original = [original_rate(engine, base, references) for _ in range(rounds)]
        print(f"{torch.get_num_threads()} threads, batches of {BATCH}, {SIZE} px")
        print(told("style guidance in batches", batched, "images/s"))
        print(told("one at a time", single, "images/s"))
        print(told("one at a time, as the original", original, "images/s"))
        for name, others, bar in (
            ("one at a time", single, ""),
            ("the original's loop", original, "bar 3"),
        ):
            ratios = [a / b for a, b in zip(batched, others, strict=True)]
            print(told(f"batched / {name}", ratios, ""), bar)
        inpaint = base.model_copy(
            update={
                "num_images": num_images,
                "options": {"inpaint": {"jump_length": 5, "repeats": 2}},
            }
        )
        with ray_session():
            stream_once(inpaint)  # warm
            streamed, plain = alternate(
                lambda: stream_once(inpaint).images_per_second,
                lambda: plain_inpaint_rate(generator, inpaint, references),
                rounds=rounds,
            )
        print(told("inpainting through the stream", streamed, "images/s"))
        print(told("plain RePaint loop", plain, "images/s"))
        ratios = [a / b for a, b in zip(streamed, plain, strict=True)]
        print(told("stream / plain", ratios, ""), "bar 0.90")


if __name__ == "__main__":
    main()
