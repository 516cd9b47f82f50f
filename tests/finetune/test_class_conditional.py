"""Class-conditional generators from scratch: from images to a folder that the engine draws with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from factory.config import load_config, parse_config
from factory.errors import ConfigError, DataError, ModelError
from factory.finetune.autoencoder import load_first_stage
from factory.finetune.data import Material, load_material
from factory.finetune.latents import encode_turned
from factory.finetune.losses import training_scheduler
from factory.finetune.order import Part
from factory.finetune.plan import Plan
from factory.finetune.run import finetune_here, load_plan, needs_of_plan, prepare
from factory.methods.class_conditional import denoiser
from factory.methods.class_conditional.config import ClassConditionalConfig
from factory.methods.class_conditional.denoiser import ClassTraining, build_network, class_training
from factory.methods.class_conditional.train import autoencoder_folder, encoded_part
from factory.models.class_conditioning import CONDITIONINGS
from factory.models.generator import Generator, open_generator
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan
from factory.sample.references import References
from tests.fakes.splits import split_of

TINY = {
    "method": "class_conditional",
    "name": "mine",
    "size_px": 16,
    "only": ["eosinophil", "monocyte"],
    "autoencoder": {"steps": 2, "batch_size": 4, "channels": [16, 16, 16]},
    "unet": {
        "context_dim": 16,
        "down_channels": [8, 16],
        "mid_channels": [16, 8],
        "conv_out_channels": 8,
        "down_sample": [True],
        "self_attention": [True],
        "num_down_layers": 1,
        "num_up_layers": 1,
        "time_embed_dim": 16,
        "num_attention_heads": 2,
        "norm_num_groups": 4,
    },
    "training": {"steps": 4, "batch_size": 4, "warmup_steps": 1, "ema_decay": 0.9},
    "validation": {
        "every_steps": 2,
        "draw_every": 2,
        "images_per_class": 1,
        "num_inference_steps": 2,
        "best_by": "val_loss",
    },
}


def config(**changes: object) -> ClassConditionalConfig:
    merged = dict(TINY)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    return parse_config(ClassConditionalConfig, merged, where="test")


Trained = tuple[Plan, Generator, list[str]]


@pytest.fixture(scope="module")
def trained(
    dataset: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    """Whole trainings by conditioning, each made once."""
    made: dict[str, Trained] = {}

    def of(conditioning: str) -> Trained:
        if conditioning not in made:
            output, told = tmp_path_factory.mktemp(conditioning), []
            chosen = config(unet={"conditioning": conditioning})
            plan = prepare(chosen, dataset, split, output)
            made[conditioning] = (plan, finetune_here(plan, tell=told.append), told)
        return made[conditioning]

    return of


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_conditioning_trains_and_is_drawn_by_the_line(
    conditioning: str, trained: Callable[[str], Trained], dataset: RealDataset, split: Split
) -> None:
    plan, generator, told = trained(conditioning)
    assert generator.class_names == ("eosinophil", "monocyte")
    assert generator.manifest["split_digest"] == split.digest
    assert generator.field == load_plan(plan.output).field
    assert set(generator.field.objects.means) == {"eosinophil", "monocyte"}
    assert any("val_loss" in line for line in told)

    masks = conditioning == "concat"
    references = References(dataset=dataset, split=split) if masks else None
    job = GenerateConfig(
        model=str(generator.folder),
        num_images=4,
        classes={name: f"a {name}" for name in generator.class_names},
        num_inference_steps=2,
        batch_size=2,
        seed=1,
        options={"masks": "reference"} if masks else {},
    )
    engine = Engine(generator, references=references)
    batches = list(make_plan(job, generator, references).batches())
    drawn = [engine.draw(batch) for batch in batches]
    assert {one.images.shape[1:] for one in drawn} == {(16, 16, 3)}
    assert sum(len(one) for one in drawn) == 4
    assert all((one.masks is not None) == masks for one in drawn)
    assert (plan.folder_of("all") / "samples" / "step-00000004.png").exists() != masks


def test_the_scaling_factor_is_measured_and_stored(trained: Callable[[str], Trained]) -> None:
    plan, generator, _ = trained("context_class")
    latents = material_of(plan).latents
    factor = load_pipeline(generator).vae.config.scaling_factor
    assert factor == load_first_stage(autoencoder_folder(plan)).config.scaling_factor
    assert 0.7 < float((latents.float() * factor).std()) < 1.3


def test_a_scaling_factor_that_fits_no_schedule_is_refused(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    wide = config(autoencoder={"scaling_factor": 40.0})
    with pytest.raises(ModelError, match=r"standard deviation .* outside \[0.7, 1.3\]"):
        finetune_here(prepare(wide, dataset, split, tmp_path), tell=lambda _: None)


def test_only_the_train_part_is_learnt_and_only_the_val_part_validates(
    trained: Callable[[str], Trained], split: Split
) -> None:
    plan, _, _ = trained("context_class")
    learnt, held_out = load_material(plan.learn), load_material(plan.held_out)
    assert set(learnt.ids) <= set(split.train)
    assert set(held_out.ids) <= set(split.val)
    assert set(learnt.labels) == set(held_out.labels) == {"eosinophil", "monocyte"}


def weights(generator: Generator) -> dict[str, Tensor]:
    parts = load_pipeline(generator)
    return {**parts.unet.state_dict(), **{f"vae.{k}": v for k, v in parts.vae.state_dict().items()}}


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_killed_in_either_stage_it_goes_on_to_the_same_weights(
    stage: str,
    trained: Callable[[str], Trained],
    dataset: RealDataset,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, whole, _ = trained("context_class")

    class Killed(Exception):
        pass

    from factory.finetune.loop import Loop

    run = Loop.run

    def killed(self: Loop, **how: object):  # type: ignore[no-untyped-def]
        denoising = self.config.checkpoint_dir.name == "checkpoints"
        for progress in run(self, **how):
            yield progress
            if denoising == (stage == "denoiser") and progress.step == 1:
                self.save()
                self.wait()
                raise Killed

    plan = prepare(config(), dataset, split, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "run", killed)
        with pytest.raises(Killed):
            finetune_here(plan, tell=lambda _: None)
    again = finetune_here(prepare(config(), dataset, split, tmp_path), tell=lambda _: None)
    expected, got = weights(whole), weights(again)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def material_of(plan: Plan, *, cached: bool = True) -> Material:
    autoencoder = load_first_stage(autoencoder_folder(plan))
    return encoded_part(plan, plan.learn, autoencoder) if cached else load_material(plan.learn)


def training_of(plan: Plan, chosen: ClassConditionalConfig | None = None) -> ClassTraining:
    chosen, names = chosen or plan.config, load_material(plan.learn).class_names
    autoencoder = load_first_stage(autoencoder_folder(plan))
    return class_training(build_network(chosen, names, latent_channels=4), chosen, autoencoder)


def test_conditions_are_dropped_as_often_as_asked(
    trained: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, _ = trained("context_class")
    chosen = config(training={"batch_size": 2000, "condition_dropout": 0.2})
    training, shown = training_of(plan, chosen), []

    def seen(
        self: ClassTraining,
        material: Material,
        rows: Tensor,
        turns: Tensor,
        present: Tensor,
        *rest: object,
    ) -> dict[str, Tensor]:
        shown.append(present)
        return {}

    monkeypatch.setattr(ClassTraining, "_losses", seen)
    for step in range(5):
        training.loss(material_of(plan), Part(step=step))
    dropped = ~torch.cat(shown)
    assert len(dropped) == 10_000
    assert float(dropped.float().mean()) == pytest.approx(0.2, abs=0.01)


def test_cached_latents_and_those_made_on_the_fly_cost_the_same(
    trained: Callable[[str], Trained],
) -> None:
    plan, _, _ = trained("context_class")
    training = training_of(plan)
    for step in range(3):
        cached, fresh = (
            training.loss(material_of(plan, cached=c), Part(step=step))["loss"].item()
            for c in (True, False)
        )
        assert fresh == pytest.approx(cached, rel=2e-3)


def test_turns_can_be_left_out(trained: Callable[[str], Trained]) -> None:
    plan, _, _ = trained("context_class")
    pixels, autoencoder = load_material(plan.learn), load_first_stage(autoencoder_folder(plan))
    assert encode_turned(autoencoder, pixels.images, turns=1).shape[1] == 1
    rows, training = torch.arange(4), training_of(plan)
    upright = replace(material_of(plan), latents=material_of(plan).latents[:, :1])
    assert torch.equal(
        training.clean(upright, rows, torch.zeros(4, dtype=torch.long)),
        training.clean(material_of(plan), rows, torch.zeros(4, dtype=torch.long)),
    )
    with_turns = replace(training, config=config(turns=False))
    assert with_turns.loss(upright, Part(step=0))["loss"].isfinite()


def test_parts_of_a_step_add_up_to_it(trained: Callable[[str], Trained]) -> None:
    plan, _, _ = trained("context_class")
    training, material = training_of(plan), material_of(plan)
    whole = training.loss(material, Part(step=1))["loss"].item()
    halves = [training.loss(material, Part(step=1, number=n, of=2))["loss"].item() for n in (0, 1)]
    assert np.mean(halves) == pytest.approx(whole, rel=1e-5)


def test_a_checkpoint_of_another_configuration_names_the_keys(
    trained: Callable[[str], Trained], dataset: RealDataset, split: Split
) -> None:
    plan, _, _ = trained("class")
    other = config(unet={"conditioning": "class"}, training={"condition_dropout": 0.5})
    with pytest.raises(ModelError, match=r"condition_dropout 0\.\d+ there, 0\.5 here"):
        prepare(other, dataset, split, plan.output)


def test_a_loss_that_is_no_number_stops_the_run(
    dataset: RealDataset, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        return torch.tensor(float("nan"), requires_grad=True)

    monkeypatch.setattr(denoiser, "denoising_loss", broken)
    with pytest.raises(ModelError, match="step 0: loss nan"):
        finetune_here(prepare(config(), dataset, split, tmp_path), tell=lambda _: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(config(cluster={"use_gpu": True}), dataset, split, tmp_path)
    with pytest.raises(ConfigError, match="use_gpu is true, and this machine has 0 GPUs"):
        finetune_here(plan, tell=lambda _: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ["unicorn"]}, "class 'unicorn' is not in the dataset"),
        ({"unet": {"mid_channels": [8, 8]}}, "mid_channels"),
        ({"unet": {"norm_num_groups": 5}}, "cannot be divided by norm_num_groups 5"),
        ({"autoencoder": {"channels": [12, 12]}}, "12 channels of the autoencoder"),
        (
            {
                "size_px": 24,
                "unet": {
                    "down_channels": [8, 8, 16],
                    "down_sample": [True, True],
                    "self_attention": [True, True],
                },
            },
            "24 px cannot be halved 4 times",
        ),
        ({"autoencoder": {"base": "nowhere"}}, "no generator at 'nowhere'"),
        ({"autoencoder": {"perceptual": "nowhere.safetensors"}}, r"nowhere\.safetensors"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    changes: dict[str, object], message: str, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError, ModelError), match=message):
        prepare(config(**changes), dataset, split, tmp_path)


def test_a_held_out_image_in_the_train_part_is_refused(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    leaking = replace(split, train=(*split.train, split.val[0]))
    with pytest.raises(DataError, match=f"disagree on 1 ids, the first is '{split.val[0]}'"):
        prepare(config(), dataset, leaking, tmp_path)


def test_masks_that_are_missing_are_said_before(split: Split, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(6):
        folder = tmp_path / "set" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 50 + number).convert("RGB").save(folder / f"{number}.png")
    dataset = open_dataset(tmp_path / "set")
    own = split_of(dataset, train=1.0)
    chosen = config(only=[], unet={"conditioning": "concat"})
    with pytest.raises(DataError, match="has no mask"):
        prepare(chosen, dataset, own, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": {"steps": 0}}, "steps 0 without a base"),
        ({"noise": {"beta_start": 0.5, "beta_end": 0.1}}, "beta_start must lie below"),
        ({"unet": {"conditioning": "image"}}, "context_class"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_the_autoencoder_of_a_generator_is_used_as_it_is(
    tiny: Generator, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    chosen = config(autoencoder={"base": str(tiny.folder), "steps": 0})
    generator = finetune_here(prepare(chosen, dataset, split, tmp_path), tell=lambda _: None)
    theirs, ours = (load_pipeline(g).vae for g in (tiny, generator))
    assert all(map(torch.equal, theirs.state_dict().values(), ours.state_dict().values()))
    assert ours.config.scaling_factor != theirs.config.scaling_factor  # measured on these images


def test_the_presets_are_the_originals_and_a_small_one() -> None:
    original = load_config(ClassConditionalConfig, "blastdiffusion")
    with torch.device("meta"):
        network = build_network(original, ("no", "yes"), latent_channels=4)
    assert network.unet.num_parameters() == pytest.approx(65.1e6, abs=0.5e6)
    told = original.training
    assert (told.batch_size, told.learning_rate, told.condition_dropout) == (24, 5e-4, 0.2)
    betas = training_scheduler(original.noise).betas
    assert betas.tolist() == pytest.approx(
        (torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2).tolist(), rel=1e-5
    )
    small = load_config(ClassConditionalConfig, "blastdiffusion_small")
    with torch.device("meta"):
        assert build_network(small, ("no", "yes"), latent_channels=4).unet.num_parameters() < 5e6


def test_a_folder_is_what_its_plan_says(trained: Callable[[str], Trained]) -> None:
    plan, generator, _ = trained("context_class")
    assert load_plan(plan.output) == plan
    assert open_generator(generator.folder).model_id == generator.model_id
    assert "two" not in generator.manifest
    card = (generator.folder / "README.md").read_text()
    assert "Class-conditional latent diffusion for images of 16 px" in card


def test_a_denoiser_from_scratch_is_pulled_to_an_experts_features(
    dataset: RealDataset, split: Split, expert_folder: Path, tmp_path: Path
) -> None:
    aligned = {"expert": str(expert_folder), "alignment": {"weight": 1}}
    plan = prepare(config(n_shot={"monocyte": 3}, **aligned), dataset, split, tmp_path)
    assert load_material(plan.learn).labels.count("monocyte") == 3
    assert needs_of_plan(plan).startswith("needs about 0.")
    told: list[str] = []
    generator = finetune_here(plan, tell=told.append)
    assert any("alignment" in line and "val_alignment" in line for line in told)
    assert not any("projection" in name for name in weights(generator))
