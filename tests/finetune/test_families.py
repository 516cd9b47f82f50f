"""LoRA of today's families: trained, resumed, loaded by diffusers, drawn with by the factory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from factory.config import parse_config
from factory.errors import ConfigError
from factory.finetune.loop import Loop
from factory.finetune.losses import add_flow_noise, flow_loss
from factory.finetune.meter import Progress
from factory.finetune.order import Part
from factory.finetune.run import finetune_here, needs_of_plan, prepare
from factory.methods.text.adapt import described
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.lora import family_sketch
from factory.models.generator import Generator, find_generator, open_generator
from factory.models.lora import open_lora
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan, with_defaults
from tests.fakes.families import tiny_pipeline

TRAINED = ("sdxl", "sd3", "flux")


def config(folder: Path, **changes: object) -> FinetuneConfig:
    known = {
        "name": "mine",
        "base": str(folder),
        "n_shot": 2,
        "size_px": 16,
        "lora": {"rank": 2, "train_text_encoder": False},
        "training": {
            "steps": 2,
            "batch_size": 2,
            "warmup_steps": 0,
            "learning_rate": 0.1,
            "condition_dropout": 0.3,
        },
        "validation": {"every_steps": 2, "images_per_class": 1, "num_inference_steps": 1},
    }
    return parse_config(FinetuneConfig, known | changes, where="test")


@pytest.mark.parametrize("name", TRAINED)
def test_a_lora_is_trained_and_drawn_with_here_as_in_diffusers(
    name: str, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    folder = tiny_pipeline(name, tmp_path / name)
    plan = prepare(config(folder), dataset, split, tmp_path / "run")
    assert needs_of_plan(plan).startswith("needs about")
    told = list[str]()
    generator = finetune_here(plan, tell=told.append)
    assert any("val_loss" in line for line in told)
    assert (generator.folder / "samples.png").is_file()

    lora = open_lora(generator.folder / "lora" / "all")
    changed = [value for key, value in lora.tensors.items() if "lora_B" in key]
    learnt = [value for value in changed if value.abs().sum() > 0]
    assert len(learnt) > 0.8 * len(changed)  # what SD 3's last block asks of its text is not used

    theirs = DiffusionPipeline.from_pretrained(folder)
    theirs.load_lora_weights(generator.folder / "lora" / "all")
    theirs.fuse_lora()
    ours = Engine(generator)
    recipe = plan_of(generator).batch(0)
    drawn = ours.draw(recipe).images
    part = "unet" if name == "sdxl" else "transformer"
    fused = dict(getattr(theirs, part).named_parameters())
    mine = dict(getattr(ours._pipeline, part).named_parameters())
    folded = [key for key in fused if key.endswith(".base_layer.weight")]
    assert len(folded) == len(changed)
    for key in folded:
        own = mine[key.replace(".base_layer", "")]
        torch.testing.assert_close(fused[key], own, rtol=1e-5, atol=1e-6)
    for path in folder.glob("*/*.safetensors"):
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    needs = family_sketch(plan.config, described(plan.config), None)  # of configurations alone
    assert sum(p.requires_grad for p in needs.network.parameters()) == 2 * len(changed)
    for path in tmp_path.glob("*.safetensors"):
        part, _, file = path.name.partition("-")
        path.rename(folder / part / file)
    base = find_generator(str(folder))
    plain = Engine(base).draw(plan_of(base, like=generator).batch(0)).images
    assert not np.array_equal(drawn, plain)


def plan_of(generator: Generator, like: Generator | None = None):
    prompts = (like or generator).prompts
    asked = GenerateConfig(
        model=str(generator.folder),
        num_images=2,
        batch_size=2,
        size_px=16,
        num_inference_steps=2,
        seed=1,
        classes={name: prompts[name] for name in sorted(prompts)[:1]},
    )
    return make_plan(with_defaults(asked, generator), generator)


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_resumed_training_has_the_same_bits(
    name: str, dataset: RealDataset, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_pipeline(name, tmp_path / name)
    asked = config(folder, validation={"every_steps": 1, "draw_every": None})
    whole = finetune_here(prepare(asked, dataset, split, tmp_path / "whole"), tell=str)
    run = Loop.run

    def killed(self: Loop, **given: object) -> Iterator[Progress]:
        yield next(run(self, **given))
        self.save()
        self.wait()
        raise KeyboardInterrupt

    plan = prepare(asked, dataset, split, tmp_path / "resumed")
    monkeypatch.setattr(Loop, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune_here(plan, tell=str)
    monkeypatch.undo()
    resumed = finetune_here(prepare(asked, dataset, split, tmp_path / "resumed"), tell=str)
    assert resumed.adapters == whole.adapters


def test_the_base_may_lie_in_half_precision(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    folder = tiny_pipeline("flux", tmp_path / "flux")
    asked = config(folder, base_dtype="bfloat16", lora_scale=0.5)
    generator = finetune_here(prepare(asked, dataset, split, tmp_path / "run"), tell=str)
    tensors = open_lora(generator.folder / "lora" / "all").tensors
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert open_generator(generator.folder).manifest["lora_scale"] == 0.5


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("pixart", {}, "is drawn, and not trained"),
        ("sd3", {"train": "full"}, "train: full would change the whole network"),
        ("sdxl", {"lora": {"train_text_encoder": True}}, "its text encoders do not learn"),
        ("flux", {"size_px": 24}, "24 is no multiple of 16"),
        ("flux", {"training": {"snr_gamma": 5}}, "it learnt a flow"),
        ("sd", {"base_dtype": "bfloat16"}, "learns in float32"),
    ],
)
def test_what_a_family_is_not_trained_by_is_refused_at_once(
    name: str,
    changes: dict[str, object],
    told: str,
    dataset: RealDataset,
    split: Split,
    tmp_path: Path,
) -> None:
    folder = tiny_pipeline(name, tmp_path / name)
    with pytest.raises(ConfigError, match=told):
        prepare(config(folder, **changes), dataset, split, tmp_path / "run")


def test_a_flow_goes_straight_from_the_image_to_its_noise() -> None:
    clean = torch.ones(4, 2, 3, 3)
    noised = add_flow_noise(clean, Part(step=5), batch_size=4, seed=1)
    level = noised.timesteps.view(-1, 1, 1, 1)
    assert ((level > 0) & (level < 1)).all()
    torch.testing.assert_close(noised.noisy, clean + level * (noised.noise - clean))
    assert flow_loss(noised, noised.noise - clean) == 0
    moved = add_flow_noise(clean, Part(step=5), batch_size=4, seed=1, shift=3.0).timesteps
    torch.testing.assert_close(moved, 3 * noised.timesteps / (1 + 2 * noised.timesteps))
    halves = [
        add_flow_noise(clean[n::2], Part(step=5, number=n, of=2), batch_size=4, seed=1).noisy
        for n in range(2)
    ]
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), noised.noisy)
