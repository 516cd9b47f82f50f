"""The five published systems: a preset each, which carries its numbers."""

from collections.abc import Mapping
from typing import Any

import pytest

from factory.config import load_config
from factory.evaluate.config import StudyConfig
from factory.methods.class_conditional.config import ClassConditionalConfig
from factory.methods.text.config import FinetuneConfig
from factory.sample.config import GenerateConfig

CLASSIFIER = {
    "learner.batch_size": 64,
    "learner.learning_rate": 1e-4,
    "learner.weight_decay": 1e-8,
    "learner.mixing.probability": 0.2,
    "learner.mixing.kind": "either",
}
PUBLISHED: Mapping[str, tuple[type[Any], Mapping[str, Any]]] = {
    "cytodiff": (
        FinetuneConfig,
        {
            "train": "lora",
            "separate": True,
            "n_shot": 16,
            "turns": False,
            "lora.rank": 16,
            "lora.train_text_encoder": True,
            "lora.unet_targets": ("to_q", "to_k", "to_v", "to_out.0"),
            "training.steps": 600,
            "training.batch_size": 8,
            "training.learning_rate": 1e-4,
            "training.warmup_steps": 100,
            "training.betas": (0.9, 0.999),
            "training.weight_decay": 1e-2,
            "training.ema_decay": 0,
            "training.condition_dropout": 0,
        },
    ),
    "cytodiff_draw": (
        GenerateConfig,
        {
            "guidance_scale": 2,
            "num_inference_steps": 50,
            "scheduler": "pndm",
            "batch_size": 10,
            "num_images": 500 * 15,
        },
    ),
    "evaluate_clip": (
        StudyConfig,
        {
            "learner.clip.rank": 16,
            "learner.clip.alpha": 32,
            "learner.clip.dropout": 0.1,
            **CLASSIFIER,
        },
    ),
    "evaluate_resnet50": (
        StudyConfig,
        {"learner.size_px": 384, "learner.weights": None, **CLASSIFIER},
    ),
    "feature_aligned_published": (
        FinetuneConfig,
        {
            "train": "full",
            "alignment.weight": 1,
            "alignment.expert_input": "noisy",
            "training.steps": 20 * 5000 * 4 // 5 // 4,
            "training.batch_size": 4,
            "training.learning_rate": 1e-4,
            "training.warmup_steps": 0,
            "training.ema_decay": 0,
            "training.snr_gamma": None,
        },
    ),
    "blastdiffusion": (
        ClassConditionalConfig,
        {
            "training.batch_size": 24,
            "training.learning_rate": 5e-4,
            "training.condition_dropout": 0.2,
            "noise.beta_start": 0.0015,
            "noise.beta_end": 0.0195,
        },
    ),
    "polyp_pairs_published": (
        GenerateConfig,
        {
            "num_images": 348 * 3,
            "images_per_reference": 3,
            "num_inference_steps": 200,
            "options.inpaint.jump_length": 10,
            "options.inpaint.repeats": 5,
            "options.inpaint.dilation_share": 20 / 256,
            "options.inpaint.keep_mask": False,
            "options.mask.opening_share": 16 / 256,
            "options.match_colours": True,
            "options.style.feature": 10000,
            "options.style.direction": 40000,
            "options.style.target": 10000,
            "options.style.range": 200,
            "options.style.patch": 500,
            "options.style.perceptual": 100,
            "options.style.source": 5000,
            "options.style.until": 50,
            "options.style.skip_timesteps": 80,
            "options.style.num_inference_steps": 200,
            "options.style.extractor": "dino_vitb8",
            "options.style.perceptual_extractor": "vgg19",
        },
    ),
    "adbd_published": (
        GenerateConfig,
        {
            "num_inference_steps": 1000,
            "guidance_scale": 1,
            "scheduler": "ddim",
            "options.depths": 10,
            "options.policy": "reversed",
            "options.measure": "centre_row",
            "options.soft_label": "depth",
        },
    ),
}


def value(found: Any, key: str) -> Any:
    """Return what stands at a dotted key."""
    for name in key.split("."):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_carries_the_published_numbers(preset: str) -> None:
    kind, numbers = PUBLISHED[preset]
    config = load_config(kind, preset)
    for key, number in numbers.items():
        found = value(config, key)
        assert found == (pytest.approx(number) if isinstance(number, float) else number), key
