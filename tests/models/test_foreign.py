"""LoRA files of other trainers: folded into ours whole, or refused with the reason."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from factory.config import parse_config
from factory.errors import ConfigError, ModelError
from factory.finetune.run import finetune_here
from factory.finetune.run import prepare as prepare_training
from factory.methods.text.config import FinetuneConfig
from factory.models.foreign import find_drawn
from factory.models.generator import BASE_LORA, Generator, find_generator, open_generator
from factory.models.pipeline import load_pipeline
from factory.real.sources import open_dataset
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import prepare
from factory.sample.regenerate import regenerate_images
from factory.sample.run import execute
from tests.fakes.families import tiny_pipeline
from tests.fakes.splits import split_of

PLACE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
ALPHA, RANK = 2.0, 4


def weight_of(pipeline) -> torch.Tensor:
    return dict(pipeline.unet.named_modules())[PLACE].weight


def kohya(path: Path, weight: torch.Tensor, place: str = PLACE) -> tuple[Path, torch.Tensor]:
    """Write a LoRA as kohya-ss does; return it with the change of the weight that it means."""
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(RANK, weight.shape[1], generator=generator)
    up = torch.randn(weight.shape[0], RANK, generator=generator)
    name = f"lora_unet_{place.replace('.', '_')}"
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(ALPHA),
    }
    save_file(tensors, path)
    return path, ALPHA / RANK * up @ down


def asked(generator: Generator, **changes: object) -> GenerateConfig:
    known = {
        "model": str(generator.folder),
        "num_images": 2,
        "num_inference_steps": 2,
        "batch_size": 2,
        "seed": 1,
    }
    return GenerateConfig(**(known | changes))


def test_a_lora_of_kohya_is_folded_in_drawn_with_and_redrawn(
    tiny: Generator, tmp_path: Path
) -> None:
    base = weight_of(load_pipeline(tiny)).clone()
    path, change = kohya(tmp_path / "stain.safetensors", base)
    uri = str(tmp_path / "catalog")
    run = prepare(asked(tiny, lora=path, lora_scale=0.5), uri)
    plain = prepare(asked(tiny), uri)
    assert run.generator.model_id != tiny.model_id
    assert plain.generator.model_id == tiny.model_id
    folded = weight_of(Engine(run.generator)._pipeline)
    torch.testing.assert_close(folded, base + 0.5 * change, rtol=1e-5, atol=1e-6)
    *_, last = execute(run, stream=draw_here)
    outcomes = list(regenerate_images(uri, sample="100%"))
    assert [outcome.tier for outcome in outcomes] == [0] * last.accepted
    other = find_drawn(str(tiny.folder), lora=path, lora_scale=0.4)
    assert other.model_id != run.generator.model_id


def test_what_is_no_such_lora_is_refused_before_anything_is_loaded(
    tiny: Generator, tmp_path: Path
) -> None:
    name = str(tiny.folder)
    with pytest.raises(ConfigError, match="there is none"):
        find_drawn(name, lora=tmp_path / "none.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="only safetensors"):
        find_drawn(name, lora=tmp_path / "old.ckpt")
    with pytest.raises(ConfigError, match="has no LoRA"):
        find_drawn(name, lora_scale=0.5)
    wrong = tmp_path / "sdxl.safetensors"
    kohya(wrong, torch.zeros(16, 2048), PLACE.replace("attn1.to_q", "attn2.to_k"))
    with pytest.raises(ModelError, match=r"prompts of width 2048 \(SDXL\), the U-Net takes 16"):
        find_drawn(name, lora=wrong)
    for tensor, told in (("x.hada_w1_a", "LoHa"), ("x.weight", "holds no LoRA")):
        path = tmp_path / "other.safetensors"
        save_file({tensor: torch.zeros(2, 2)}, path)
        with pytest.raises(ModelError, match=told):
            find_drawn(name, lora=path)


def test_layers_that_the_base_has_not_are_an_error_and_not_left_out(
    tiny: Generator, tmp_path: Path
) -> None:
    path, _ = kohya(tmp_path / "far.safetensors", torch.zeros(16, 16), PLACE.replace("1", "7", 1))
    with pytest.raises(ModelError, match=r"1 layers, and 0 of them fit|does not fit"):
        load_pipeline(find_drawn(str(tiny.folder), lora=path))


def test_a_lora_of_a_transformer_is_folded_in(tmp_path: Path) -> None:
    """As diffusers' own training writes it, without our notes."""
    folder = tiny_pipeline("flux", tmp_path / "flux")
    generator = find_generator(str(folder))
    place = "transformer_blocks.0.attn.to_q"
    before = dict(load_pipeline(generator).transformer.named_modules())[place].weight.clone()
    down, up = torch.ones(2, before.shape[1]), torch.ones(before.shape[0], 2)
    path = tmp_path / "lora.safetensors"
    name = f"transformer.{place}"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    pipeline = load_pipeline(find_drawn(str(folder), lora=path))
    after = dict(pipeline.transformer.named_modules())[place].weight
    torch.testing.assert_close(after, before + up @ down)


def test_a_training_goes_on_from_a_lora_of_somebody_else(tmp_path: Path) -> None:
    """The file goes along with the generator, which draws where the first one is gone."""
    from tests.fakes.tiny import tiny_generator

    dataset = open_dataset("smear:60?size=16")
    names = tuple(sorted(set(dataset.labels)))
    base = tiny_generator(tmp_path / "base", class_names=names)
    path, change = kohya(tmp_path / "stain.safetensors", weight_of(load_pipeline(base)))
    stored = {
        "name": "mine",
        "base": str(base.folder),
        "base_lora": str(path),
        "base_lora_scale": 0.5,
        "lora_scale": 0.25,
        "n_shot": 2,
        "lora": {"rank": 2},
        "training": {"steps": 1, "batch_size": 2, "warmup_steps": 0, "learning_rate": 0.1},
        "validation": {"every_steps": 2, "draw_every": None},
    }
    config = parse_config(FinetuneConfig, stored, where="test")
    split = split_of(dataset, train=0.6, val=0.2, test=0.2)
    made = finetune_here(prepare_training(config, dataset, split, tmp_path / "run"), tell=str)
    path.unlink()
    generator = open_generator(made.folder)
    assert (generator.folder / BASE_LORA).is_file()
    engine = Engine(generator)
    under = weight_of(load_pipeline(base)) + 0.5 * change
    torch.testing.assert_close(weight_of(engine._pipeline), under, rtol=1e-5, atol=1e-6)

    stronger = find_drawn(str(generator.folder), lora_scale=1.0)
    assert stronger.model_id != generator.model_id
    weak, strong = Engine(generator), Engine(stronger)
    for each in (weak, strong):
        each._drawer("text", generator.adapters["all"])
    ratio = (weight_of(strong._pipeline) - under) / (weight_of(weak._pipeline) - under)
    torch.testing.assert_close(ratio.median(), torch.tensor(4.0), rtol=1e-3, atol=0)
