"""A base that starts from another: what stays of it, and what is refused."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from factory.errors import ConfigError
from factory.finetune.class_config import AdversarialConfig, FirstStageConfig
from factory.finetune.first_stage import Lesson, autoencoder_of, train_first_stage
from factory.finetune.loop import Loop
from factory.finetune.pretrain import build_denoiser, training_scheduler
from factory.models.autoencoder import small_autoencoder
from factory.models.export import write_generator
from tests.finetune.test_resume import DATA, config


def run(loop: Loop) -> None:
    list(loop.run())


def test_training_the_decoder_leaves_the_latents_as_they_are(tmp_path: Path) -> None:
    stage = FirstStageConfig(
        base="wbc-base",
        trains="decoder",
        steps=2,
        batch_size=2,
        warmup_steps=0,
        adversarial=AdversarialConfig(channels=(8,), start_step=0, adaptive=True),
    )
    lesson = Lesson(images=DATA.images, seed=0)
    got = train_first_stage(stage, lesson, tmp_path / "autoencoder", follow=run)
    base = autoencoder_of("wbc-base", None)
    assert got.config.scaling_factor == base.config.scaling_factor
    changed = {
        name.partition(".")[0]
        for name, value in got.state_dict().items()
        if not torch.equal(value, base.state_dict()[name])
    }
    assert changed == {"decoder", "post_quant_conv"}


def test_a_decoder_of_no_base_is_refused() -> None:
    with pytest.raises(ValidationError, match="trains decoder without a base"):
        FirstStageConfig(steps=1, trains="decoder")


def test_keys_that_came_later_rename_nothing_at_their_default() -> None:
    stored = config().model_dump(mode="json")
    assert "trains" not in stored["autoencoder"]
    assert "base" not in stored["denoiser"]
    assert config(base="wbc-base").model_dump()["denoiser"]["base"] == "wbc-base"
    decoder = FirstStageConfig(base="wbc-base", steps=1, trains="decoder")
    assert FirstStageConfig.model_validate(decoder.model_dump()) == decoder


def test_a_denoiser_starts_from_the_base_it_names(tmp_path: Path) -> None:
    model, tokenizer = build_denoiser(DATA, config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    base = write_generator(
        tmp_path / "base",
        parts={
            "unet": model.unet,
            "vae": small_autoencoder(sample_size_px=16),
            "text_encoder": model.text_encoder,
            "tokenizer": tokenizer,
            "scheduler": training_scheduler(),
        },
        manifest={
            "name": "base",
            "method": "text",
            "size_px": 16,
            "class_names": ["monocyte", "eosinophil"],
            "prompts": {},
        },
        card="",
    )
    started, _ = build_denoiser(DATA, config(base=str(base.folder)))
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in started.state_dict().items())
    with pytest.raises(ConfigError, match=r"the unet of denoiser\.base .* is another network"):
        build_denoiser(DATA, config(base=str(base.folder), channels=(32, 64)))


def test_a_base_of_other_words_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"denoiser\.base 'wbc-base' knows other words"):
        build_denoiser(DATA, config(base="wbc-base", channels=(128, 192)))
