"""The whole aligned training: autoencoder first, the expert's features, the arms of an ablation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factory.config import parse_config
from factory.finetune.alignment import FeaturesOf, features_of
from factory.finetune.config import AlignmentSettings
from factory.finetune.images import choose_images
from factory.finetune.latents import to_signed, turn
from factory.finetune.order import Part
from factory.finetune.run import finetune_here, prepare
from factory.methods.text.adapt import adapt
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.train import base_of, with_adapted_autoencoder
from factory.models.autoencoder import measure_scaling_factor
from factory.models.expert_file import load_expert
from factory.models.experts import Expert, state_digest
from factory.models.generator import Generator, open_generator
from factory.models.lora import open_lora
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.finetune.test_run import encoded_of


@pytest.fixture
def expert(expert_folder: Path) -> Expert:
    return load_expert(expert_folder)[0]


def config(base: Generator, expert_folder: Path, **changes: object) -> FinetuneConfig:
    known = {
        "name": "aligned",
        "base": str(base.folder),
        "train": "full",
        "n_shot": 2,
        "expert": str(expert_folder),
        "alignment": {"weight": 1},
        "training": {"steps": 2, "batch_size": 2, "warmup_steps": 1},
        "validation": {"every_steps": 1, "draw_every": None},
    }
    return parse_config(FinetuneConfig, known | changes, where="test")


def weights_of(generator: Generator) -> dict[str, torch.Tensor]:
    pipeline = load_pipeline(generator)
    return {f"unet.{n}": v for n, v in pipeline.unet.state_dict().items()} | {
        f"text.{n}": v for n, v in pipeline.text_encoder.state_dict().items()
    }


def test_an_adapted_autoencoder_shows_the_images_better_and_nothing_else_changes(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    told: list[str] = []
    asked = config(base, expert_folder, autoencoder={"steps": 40, "batch_size": 4})
    before = {path: path.stat().st_mtime_ns for path in base.folder.rglob("*")}
    adapted = with_adapted_autoencoder(asked, dataset, split, stages=tmp_path, tell=told.append)
    assert {path: path.stat().st_mtime_ns for path in base.folder.rglob("*")} == before
    assert any(line.startswith("autoencoder: step 40/40") for line in told)
    assert adapted.autoencoder.steps == 0
    ours, theirs = load_pipeline_of(adapted.base), load_pipeline(base)
    images = to_signed(torch.from_numpy(dataset.array(16, split.val)))

    def error(pipeline: object) -> float:
        with torch.no_grad():
            latents = pipeline.vae.encode(images).latent_dist.mode()
            return float((pipeline.vae.decode(latents).sample - images).abs().mean())

    assert error(ours) < 0.8 * error(theirs)
    chosen = choose_images(dataset, split, asked)
    shots = to_signed(torch.from_numpy(dataset.array(16, chosen)))
    factor = ours.vae.config.scaling_factor
    assert factor == pytest.approx(measure_scaling_factor(ours.vae, shots), rel=1e-3)
    for name in ("unet", "text_encoder"):
        one, other = getattr(ours, name).state_dict(), getattr(theirs, name).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)
    told.clear()
    again = with_adapted_autoencoder(asked, dataset, split, stages=tmp_path, tell=told.append)
    assert again == adapted
    assert told == []


def load_pipeline_of(folder: str) -> object:
    return load_pipeline(open_generator(Path(folder)))


@pytest.mark.slow
def test_the_exported_generator_carries_the_adapted_autoencoder(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    asked = config(base, expert_folder, autoencoder={"steps": 2, "batch_size": 2})
    plan = prepare(asked, dataset, split, tmp_path)
    generator = finetune_here(plan, tell=lambda _: None)
    adapted, drawn = load_pipeline(base_of(plan)).vae, load_pipeline(generator).vae
    assert drawn.config.scaling_factor == adapted.config.scaling_factor
    stored = load_pipeline(base).vae.state_dict()
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, drawn.state_dict()[name]), name
    assert any(not torch.equal(v, drawn.state_dict()[n]) for n, v in stored.items())


def test_a_lora_is_for_the_base_that_learnt_to_show_its_shots_alone(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    changes = {
        "train": "lora",
        "n_shot": 2,
        "alignment": {"weight": 0},
        "autoencoder": {"steps": 2, "batch_size": 2},
    }
    plan = prepare(config(base, expert_folder, **changes), dataset, split, tmp_path)
    generator = finetune_here(plan, tell=lambda _: None)
    adapted = base_of(plan)
    assert adapted.manifest["images_trained"] == 2 * len(set(dataset.labels))
    assert generator.manifest["base_model_id"] == adapted.model_id != base.model_id


@pytest.mark.parametrize("shown", ["noisy", "predicted", "clean"])
def test_features_are_kept_only_of_what_never_changes(expert: Expert, shown: str) -> None:
    settings = AlignmentSettings(expert_input=shown)
    assert (features_of(expert, settings) is None) == (shown != "clean")
    assert features_of(None, settings) is None
    assert features_of(expert, AlignmentSettings(weight=0)) is None


def test_kept_features_are_the_experts_of_the_turned_images(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    expert = load_expert(expert_folder)[0]
    plan = prepare(config(base, expert_folder), dataset, split, tmp_path)
    material = encoded_of(plan)
    images = to_signed(torch.from_numpy(dataset.array(16, material.ids)))
    assert material.features is not None
    assert material.features.shape == (len(material.ids), 8, expert.width)
    for number in (0, 3, 6):
        wanted = expert.features(turn(images, number))
        assert torch.allclose(material.features[:, number].float(), wanted, atol=2e-3)
    part = material.of_class(material.labels[0])
    rows = [i for i, label in enumerate(material.labels) if label == material.labels[0]]
    assert torch.equal(part.features, material.features[rows])


def test_what_names_kept_features_is_what_decides_them(expert: Expert) -> None:
    def name(settings: AlignmentSettings) -> str:
        return FeaturesOf(expert=expert, settings=settings).digest

    plain = name(AlignmentSettings())
    assert name(AlignmentSettings(weight=0.5, layer="conv_in")) == plain
    assert name(AlignmentSettings(expert_layer="layer4.0.conv1")) != plain
    with torch.no_grad():
        next(expert.parameters()).add_(1)
    assert name(AlignmentSettings()) != plain


def test_the_term_is_the_same_whether_features_are_kept_or_asked_for(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    asked = config(base, expert_folder)
    plan = prepare(asked, dataset, split, tmp_path)
    material = encoded_of(plan)
    expert = load_expert(expert_folder)[0]
    adaptation = adapt(
        load_pipeline(base), asked, tuple(sorted(set(material.labels))), expert=expert
    )
    kept = adaptation.loss(material, Part(step=0))
    shown = adaptation.loss(replace(material, features=None), Part(step=0))
    assert torch.equal(kept["denoising"], shown["denoising"])
    assert 0 < float(kept["alignment"].detach()) < 2
    # what is decoded of a random autoencoder is another image than the real one
    assert not torch.equal(kept["alignment"], shown["alignment"])


@pytest.mark.slow
def test_weight_0_is_the_plain_fine_tuning_bit_for_bit_and_the_expert_stays(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    def trained(name: str, **changes: object) -> Generator:
        asked = config(base, expert_folder, **changes)
        told: list[str] = []
        plan = prepare(asked, dataset, split, tmp_path / name, stages=tmp_path / "stages")
        found = finetune_here(plan, tell=told.append)
        logged = "denoising" in "".join(told), "alignment" in "".join(told)
        assert logged == ((asked.alignment.weight > 0,) * 2)
        return found

    before = state_digest(load_expert(expert_folder)[0])
    stored = (expert_folder / "expert.safetensors").read_bytes()
    plain = weights_of(trained("plain", alignment={"weight": 0}, expert=None))
    off = weights_of(trained("off", alignment={"weight": 0}))
    on = weights_of(trained("on"))
    assert all(torch.equal(value, off[name]) for name, value in plain.items())
    assert any(not torch.equal(value, on[name]) for name, value in plain.items())
    assert (expert_folder / "expert.safetensors").read_bytes() == stored
    assert state_digest(load_expert(expert_folder)[0]) == before


def test_an_aligned_step_reaches_denoiser_and_w_and_never_the_expert(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    asked = config(base, expert_folder)
    material = encoded_of(prepare(asked, dataset, split, tmp_path))
    expert = load_expert(expert_folder)[0]
    before = state_digest(expert)
    adaptation = adapt(
        load_pipeline(base), asked, tuple(sorted(set(material.labels))), expert=expert
    )
    torch.autograd.backward(adaptation.loss(material, Part(step=0))["alignment"])
    named = dict(adaptation.network.named_parameters())
    reached = {name.split(".")[0] for name, value in named.items() if value.grad is not None}
    assert reached == {"unet", "projection"}
    assert all(p.grad is None for p in expert.parameters())
    assert all(p.grad is None for p in adaptation.autoencoder.parameters())
    assert state_digest(expert) == before
    assert not any("expert" in name or "vae" in name for name in named)


def test_loras_can_be_aligned(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    alignment = {"weight": 1, "layer": layer}
    asked = config(base, expert_folder, train="lora", lora={"rank": 2}, alignment=alignment)
    plan = prepare(asked, dataset, split, tmp_path)
    finetune_here(plan, tell=lambda _: None)
    tensors = open_lora(tmp_path / "generator" / "lora" / "all").tensors
    assert not any("projection" in name for name in tensors)
    assert any(value.any() for name, value in tensors.items() if "lora_B" in name)
