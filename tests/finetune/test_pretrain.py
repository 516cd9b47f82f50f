"""A base that starts from another: what stays of it, and what is refused."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from factory.config import load_config
from factory.errors import ConfigError
from factory.finetune.autoencoder import (
    Lesson,
    autoencoder_of,
    fit_patch_autoencoder,
    train_first_stage,
)
from factory.finetune.config import (
    AdversarialConfig,
    AlignmentSettings,
    FirstStageConfig,
    PatchConfig,
    ValidationConfig,
)
from factory.finetune.data import load_material
from factory.finetune.latents import cached_latents, encode_turned, encoded_latents
from factory.finetune.loop import Loop
from factory.finetune.losses import training_scheduler
from factory.finetune.order import Part
from factory.finetune.run import export_newest, finetune_here, load_plan, needs_of_plan, prepare
from factory.methods.text.base import resumable
from factory.methods.text.config import BaseConfig
from factory.methods.text.pretraining import build_denoiser
from factory.models.autoencoder import small_autoencoder
from factory.models.export import write_generator
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.splits import split_of
from tests.finetune.test_resume import AUTOENCODER, DATA, config


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
    assert "noise" not in stored
    assert "frames" not in stored
    assert "noise_levels" not in stored["denoiser"]
    assert config(base="wbc-base").model_dump()["denoiser"]["base"] == "wbc-base"
    decoder = FirstStageConfig(base="wbc-base", steps=1, trains="decoder")
    assert FirstStageConfig.model_validate(decoder.model_dump()) == decoder


def test_what_was_cut_before_is_part_of_the_field_and_of_no_training(tmp_path: Path) -> None:
    cells = open_dataset("smear:12?seed=1&size=16", crop="0.9")
    told = config().model_copy(update={"frames": "0.711"})
    assert resumable(told) == resumable(config())
    plan = prepare(told, cells, split_of(cells, train=0.8, val=0.2), tmp_path)
    assert plan.field.crop == "0.6399"  # 0.9 of 0.711
    assert plan.field.objects is not None
    assert load_plan(tmp_path) == plan
    with pytest.raises(ConfigError, match=r"frames is 'half': .*no part of a frame"):
        load_config(BaseConfig, "wbc_base", ["frames=half"])


def test_a_denoiser_starts_from_the_base_it_names(tmp_path: Path) -> None:
    autoencoder = small_autoencoder(sample_size_px=16)
    model, tokenizer = build_denoiser(DATA, config(), autoencoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    base = write_generator(
        tmp_path / "base",
        parts={
            "unet": model.unet,
            "vae": autoencoder,
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
    started, _ = build_denoiser(DATA, config(base=str(base.folder)), autoencoder)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in started.state_dict().items())
    with pytest.raises(ConfigError, match=r"the unet of denoiser\.base .* is another network"):
        build_denoiser(DATA, config(base=str(base.folder), channels=(32, 64)), autoencoder)


SHORT = ValidationConfig(every_steps=1, num_inference_steps=2, images_per_class=1)
ALIGNED = AlignmentSettings(weight=0.5)


def test_patches_need_no_training_and_a_second_run_goes_on_from_the_first_ones_export(
    dataset: RealDataset, split: Split, expert_folder: Path, tmp_path: Path
) -> None:
    patches = PatchConfig(components=12)
    cfg = config(steps=2).model_copy(
        update={"autoencoder": patches, "validation": SHORT, "alignment": ALIGNED}
        | {"expert": expert_folder}
    )
    told: list[str] = []
    plan = prepare(cfg, dataset, split, tmp_path / "run", tell=told.append)
    assert needs_of_plan(plan).startswith("needs about 0.")
    generator = finetune_here(plan, tell=told.append)
    assert any("val_loss" in line and "alignment" in line for line in told)
    assert (generator.folder / "samples.png").exists()
    assert not list((tmp_path / "run").glob("autoencoder-*/checkpoints"))
    assert export_newest(plan).model_id
    pipeline = load_pipeline(generator)
    assert pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels == 12
    base = str(generator.folder)
    kept = FirstStageConfig(base=base, steps=0, trains="decoder")
    further = config(steps=2, base=base).model_copy(update={"autoencoder": kept})
    learn = load_material(plan.learn)
    autoencoder = autoencoder_of(base, None)
    model, _ = build_denoiser(learn, further, autoencoder)
    stored = pipeline.unet.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in model.unet.state_dict().items())
    with torch.no_grad():
        autoencoder.encoder.weight[::2] *= -1  # as components may come out on another machine
    with pytest.raises(ConfigError, match="draws the latents of another autoencoder"):
        build_denoiser(learn, further, autoencoder)


def test_a_run_that_goes_on_from_an_export_takes_its_autoencoder_as_it_is() -> None:
    further = "autoencoder={base: mine, steps: 0, trains: decoder}"
    cfg = load_config(BaseConfig, "wbc_base2", [further, "denoiser.base=mine"])
    assert isinstance(cfg.autoencoder, FirstStageConfig)
    assert isinstance(load_config(BaseConfig, "wbc_base2").autoencoder, PatchConfig)
    with pytest.raises(ConfigError, match=r"autoencoder\.componentz'.* components"):
        load_config(BaseConfig, "wbc_base2", ["autoencoder.componentz=3"])


def test_latents_encoded_in_a_step_are_those_that_a_cache_would_hold() -> None:
    fitted = fit_patch_autoencoder(DATA.images, latent_channels=12)
    cached = encode_turned(fitted, DATA.images) * fitted.config.scaling_factor
    indices = torch.tensor([3, 0, 7, 5, 1])
    for part in (Part(step=4), Part(step=4, number=1, of=2)):
        ours = encoded_latents(fitted, DATA.images, seed=1)(indices, part)
        assert torch.allclose(ours, cached_latents(cached, seed=1)(indices, part), atol=4e-3)


def test_a_base_of_other_words_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"denoiser\.base 'wbc-base' knows other words"):
        build_denoiser(DATA, config(base="wbc-base", channels=(128, 192)), AUTOENCODER)
