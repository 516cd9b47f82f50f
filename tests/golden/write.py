"""Write the golden files anew: `python -m tests.golden.write`, in the folder that gets them.

They were written once, by the code before its rooms were moved, and are not to be written again
but for a promise that is broken knowingly: CHANGELOG.md then says which.
"""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel

from catalog.releasing import create_release
from factory.config import parse_config
from factory.finetune.images import split_of_output
from factory.finetune.loop import Loop
from factory.finetune.losses import training_scheduler
from factory.finetune.meter import Progress
from factory.finetune.methods import load_training
from factory.finetune.run import finetune_here
from factory.finetune.run import prepare as prepare_training
from factory.methods.text.config import BaseConfig
from factory.models.class_unet import ClassConditionalPipeline
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.models.export import write_generator
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import load_split
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import execute
from tests.fakes.bridge import lora_per_class
from tests.fakes.class_unet import tiny_class_unet
from tests.fakes.pair_generator import tiny_pairs
from tests.fakes.pairs import write_pairs

CLASSES = ("lymphocyte", "monocyte")
REAL = {"data": "real/data", "split": "real/split.json"}
SHORT: dict[str, Any] = {
    "num_images": 4,
    "num_inference_steps": 3,
    "batch_size": 2,
    "seed": 7,
    "gates": {"min_contrast": None, "max_clipped": None, "min_sharpness": None},
    "stream": {"commit_batches": 1},
}
TEXT, LORAS, GRADES, PAIRS = (
    {"model": f"models/{n}"} for n in ("text", "loras", "grades", "pairs")
)
INPAINT = {"inpaint": {"jump_length": 2, "repeats": 2}, "match_colours": True}
DRAWN: dict[str, dict[str, Any]] = {
    "text": TEXT,
    "loras": LORAS | {"guidance_scale": 3},
    "class_conditional": GRADES | {"scheduler": "ddim"},
    "pairs": PAIRS | {"guidance_scale": 1, "scheduler": "ddpm"},
    "inpainted": PAIRS
    | REAL
    | {"guidance_scale": 1, "scheduler": "ddpm", "options": INPAINT, "images_per_reference": 2},
    "bridge": TEXT
    | REAL
    | {"method": "bridge", "guidance_scale": 1, "scheduler": "ddim", "options": {"depths": 2}},
}
"""Runs whose images are drawn; places are relative to the golden folder."""
PLANNED: dict[str, dict[str, Any]] = {
    "half precision": TEXT | {"dtype": "bfloat16"},
    "another size": TEXT | {"size_px": 32},
    "a negative prompt": TEXT | {"negative_prompt": "blur"},
    "prompts": TEXT | {"classes": {"monocyte": ["a", "b"], "lymphocyte": "c"}},
    "one class": LORAS | {"classes": ["monocyte"]},
    "no gates": TEXT | {"gates": None},
    "tries": TEXT | {"max_tries": 3},
    "gates of masks": PAIRS | {"guidance_scale": 1, "mask_gates": {"max_parts": 1}},
    "folded": PAIRS | {"guidance_scale": 1, "num_inference_steps": 20, "scheduler": "ddim"},
    "one reference": PAIRS
    | REAL
    | {"guidance_scale": 1, "scheduler": "ddpm", "options": INPAINT, "references": ["monocyte/1"]},
    "unguided": GRADES | {"guidance_scale": 0},
    "deep": TEXT
    | REAL
    | {"method": "bridge", "scheduler": "ddim", "options": {"depths": 2, "policy": "adaptive"}},
    "both ways": TEXT
    | {"num_images": 6, "batch_size": 6}
    | REAL
    | {"method": "bridge", "scheduler": "ddim", "options": {"depths": 3, "soft_label": "depth"}},
    "many": TEXT | {"num_images": 1001, "batch_size": 32},
}
"""Runs that are only planned."""
STEPS, STOPPED_AT = 8, 5
LENGTH = {"steps": STEPS, "batch_size": 2, "warmup_steps": 1}
OFTEN = {"checkpoint_seconds": 0.001}
TRAINED: dict[str, dict[str, Any]] = {
    "text": {
        "base": "models/text",
        "name": "mine",
        "n_shot": 2,
        "lora": {"rank": 2},
        "training": LENGTH,
        "cluster": OFTEN,
        "validation": {"every_steps": 100, "draw_every": None},
    },
    "class_conditional": {
        "method": "class_conditional",
        "name": "mine",
        "size_px": 16,
        "autoencoder": {"base": "models/text", "steps": 0},
        "unet": {
            "context_dim": 8,
            "down_channels": [4, 8],
            "mid_channels": [8, 4],
            "conv_out_channels": 4,
            "down_sample": [True],
            "self_attention": [True],
            "num_down_layers": 1,
            "num_up_layers": 1,
            "time_embed_dim": 8,
            "num_attention_heads": 2,
            "norm_num_groups": 2,
        },
        "training": LENGTH,
        "cluster": OFTEN,
        "validation": {"every_steps": 100, "draw_every": None},
    },
    "pairs": {
        "method": "pairs",
        "name": "mine",
        "size_px": 16,
        "network": {
            "block_out_channels": [4, 8],
            "layers_per_block": 1,
            "attention_levels": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 2,
        },
        "training": LENGTH,
        "cluster": OFTEN,
    },
}
"""Trainings that were killed after `STOPPED_AT` steps, and what they end with."""
PRETRAINED: dict[str, Any] = {
    "name": "mine",
    "size_px": 16,
    "fractions": {"train": 0.75, "val": 0.25},
    "prompt": {"subject": "{class_name}"},
    "autoencoder": {"base": "models/text", "steps": 0},
    "denoiser": LENGTH | {"decay_steps": 4, "channels": [4, 8]},
    "cluster": OFTEN,
}
"""A base from scratch that was killed likewise; its networks are `_small_unet` and a narrow text
encoder."""


def config_of(stored: dict[str, Any]) -> GenerateConfig:
    """Return the configuration of a run of `DRAWN` or `PLANNED`."""
    return GenerateConfig.model_validate(SHORT | stored)


def write_models() -> None:
    """Write a generator of random weights for every method."""
    text = _text_generator(Path("models/text"))
    lora_per_class(Path("models/loras"), text, CLASSES)
    told = {"class_names": list(CLASSES)}
    tiny_pairs(Path("models/pairs"), block_out_channels=(4, 8), norm_num_groups=2, manifest=told)
    manifest = {"name": "grades", "method": "class_conditional", "size_px": 16}
    pipeline = _class_pipeline()
    parts = {name: pipeline.components[name] for name in ("unet", "vae", "scheduler")}
    manifest |= {"class_names": list(pipeline.unet.config.class_names)}
    write_generator(Path("models/grades"), parts=parts, manifest=manifest, card="# grades\n")


def _autoencoder() -> AutoencoderKL:
    torch.manual_seed(3)  # noqa: TID251 -- initial weights have no generator argument
    return AutoencoderKL(
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).eval()


def _text_generator(folder: Path) -> Generator:
    tokenizer = prompt_tokenizer(["a an", *CLASSES])
    autoencoder = _autoencoder()
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    parts = {
        "unet": unet.eval(),
        "vae": autoencoder,
        "text_encoder": small_text_encoder(tokenizer, width=8).eval(),
        "tokenizer": tokenizer,
        "scheduler": training_scheduler(),
    }
    manifest = {"name": "text", "method": "text", "size_px": 16, "class_names": list(CLASSES)}
    return write_generator(folder, parts=parts, manifest=manifest, card="# text\n")


def _class_pipeline() -> ClassConditionalPipeline:
    unet = tiny_class_unet(
        context_dim=8,
        down_channels=(4, 8),
        mid_channels=(8, 4),
        conv_out_channels=4,
        down_sample=(True,),
        self_attention=(True,),
        time_embed_dim=8,
        norm_num_groups=2,
    )
    return ClassConditionalPipeline(
        unet=unet, vae=_autoencoder(), scheduler=training_scheduler(), tokenizer=None,
        text_encoder=None,
    )  # fmt: skip


def write_runs() -> None:
    """Draw every run of `DRAWN` and release them; plan all; leave one run in the middle."""
    told = {}
    for name, stored in (DRAWN | PLANNED).items():
        run = prepare(config_of(stored), "catalog")
        quotas = [[quota.recipe.to_dict(), quota.count] for quota in run.plan.quotas]
        first = run.plan.batch(0).requests
        told[name] = {
            "run_id": run.run_id,
            "recipes": quotas if len(quotas) < 9 else quotas[:9],
            "digests": [quota.recipe.digest for quota in run.plan.quotas],
            "image_ids": [request.image_id for request in first],
            "seeds": [request.seed for request in first],
        }
        if name in DRAWN:
            list(execute(run, stream=draw_here))
    Path("runs.json").write_text(json.dumps(told, indent=1) + "\n")
    create_release("catalog", "golden", now=datetime.now(UTC), code_version="0.1.0")
    stopped = execute(
        prepare(config_of(TEXT | {"seed": 8, "num_images": 6}), "catalog"), stream=draw_here
    )
    list(itertools.islice(stopped, 2))
    stopped.close()


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """End a training with a KeyboardInterrupt, as a kill would."""
    run = Loop.run

    def shortened(self: Loop, **given: Any) -> Iterator[Progress]:
        for progress in run(self, **given):
            yield progress
            if progress.step >= steps:
                raise KeyboardInterrupt

    with patch.object(Loop, "run", shortened), suppress(KeyboardInterrupt):
        yield


def train(method: str, output: Path) -> Generator:
    """Begin a training of `TRAINED`, or go on with it."""
    config = load_training(Path(f"trainings/{method}.yaml"))
    dataset, split = open_dataset(REAL["data"]), load_split(Path(REAL["split"]))
    return finetune_here(prepare_training(config, dataset, split, output), tell=str)


def pretrain(output: Path) -> Generator:
    """Begin the training of `PRETRAINED`, or go on with it."""
    config, dataset = parse_config(BaseConfig, PRETRAINED, where="golden"), described()
    output.mkdir(exist_ok=True, parents=True)
    split, narrow = split_of_output(config, dataset, output), partial(small_text_encoder, width=8)
    with (
        patch("factory.methods.text.pretraining.small_text_encoder", narrow),
        patch("factory.methods.text.pretraining.small_unet", _small_unet),
    ):
        return finetune_here(prepare_training(config, dataset, split, output), tell=str)


def described() -> RealDataset:
    """Return the real images with their classes in a column."""
    return open_dataset("real/described", label="class")


def _small_unet(**given: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=given["sample_size_latent"],
        block_out_channels=given["channels"],
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=given["cross_attention_dim"],
        attention_head_dim=2,
    )


def write_pretraining() -> None:
    """Train the base to the end, and again to the middle, with a checkpoint after every step."""
    folder = Path("real/described")
    folder.mkdir()
    rows = ["file_name,class"]
    for path in sorted(Path(REAL["data"]).glob("images/*/*.png")):
        shutil.copyfile(path, folder / path.name)
        rows.append(f"{path.name},{path.parent.name}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    with killed_after(STOPPED_AT):
        pretrain(Path("trainings/base"))
    whole = pretrain(Path("whole/base"))
    shutil.copytree(whole.folder, "trainings/base-trained")


def write_trainings() -> None:
    """Train every method to the end, and again to the middle."""
    Path("trainings").mkdir()
    for method, stored in TRAINED.items():
        Path(f"trainings/{method}.yaml").write_text(yaml.safe_dump(stored))
        with killed_after(STOPPED_AT):
            train(method, Path(f"trainings/{method}"))
        whole = train(method, Path("whole") / method)
        shutil.copytree(whole.folder, f"trainings/{method}-trained")


if __name__ == "__main__":
    write_pairs(Path("real"), count=8, classes=CLASSES)
    write_models()
    write_runs()
    write_trainings()
    write_pretraining()
    shutil.rmtree("whole")
    for log in Path("catalog").rglob(
        "_delta_log/*.json"
    ):  # where it was written is no one's matter
        log.write_text(re.sub(r"file://[^\"\\]*(?=/catalog)", "file:///golden", log.read_text()))
