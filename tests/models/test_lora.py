"""LoRA: few weights train, the base stays to the byte, the file is diffusers' own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from factory.errors import ConfigError, ModelError
from factory.models.config import LoraSettings
from factory.models.generator import Generator
from factory.models.lora import (
    LORA_FILE,
    LoraNotes,
    attach_lora,
    fuse_lora,
    lora_parameter_count,
    lora_tensors,
    open_lora,
    save_lora,
    trainable_parameters,
)
from factory.models.pipeline import load_pipeline
from tests.fakes.stable_diffusion import on_meta

SETTINGS = LoraSettings(
    rank=3,
    alpha=6,
    unet_targets=("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv_out", "time_emb_proj"),
)


def notes(base_model_id: str, settings: LoraSettings = SETTINGS) -> LoraNotes:
    return LoraNotes(
        base_model_id=base_model_id,
        dataset_fingerprint="d" * 32,
        split_digest="s" * 32,
        ids_digest="i" * 32,
        class_names=("lymphocyte", "monozyt-ä"),
        settings=settings,
    )


def predict(pipeline: Any) -> Tensor:
    """Return the U-Net's prediction for fixed noise and tokens, through the text encoder."""
    tokens = pipeline.tokenizer(
        ["a monocyte", "a lymphocyte"], padding="max_length", return_tensors="pt"
    ).input_ids
    noisy = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    context = pipeline.text_encoder(tokens)[0]
    prediction: Tensor = pipeline.unet(noisy, torch.tensor([3, 900]), context).sample
    return prediction


def train(pipeline: Any, settings: LoraSettings = SETTINGS, *, steps: int = 3) -> None:
    """Attach a LoRA to a tiny pipeline and push its predictions away."""
    attach_lora(pipeline.unet, pipeline.text_encoder, settings, seed=7)
    weights = trainable_parameters(pipeline.unet, pipeline.text_encoder)
    optimizer = torch.optim.AdamW(weights, lr=0.05)
    for _ in range(steps):
        torch.autograd.backward((predict(pipeline) - 1).square().mean())
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def trained(tiny: Generator) -> Any:
    pipeline = load_pipeline(tiny)
    train(pipeline)
    return pipeline


@pytest.fixture
def saved(trained: Any, tiny: Generator, tmp_path: Path) -> Path:
    save_lora(tmp_path, lora_tensors(trained.unet, trained.text_encoder), notes(tiny.model_id))
    return tmp_path


def frozen_state(network: nn.Module) -> dict[str, bytes]:
    return {
        name.replace(".base_layer", ""): value.numpy().tobytes()
        for name, value in network.state_dict().items()
        if ".lora_" not in name
    }


def test_training_leaves_the_base_to_the_byte_and_moves_every_lora_weight(
    trained: Any, tiny: Generator
) -> None:
    base = load_pipeline(tiny)
    for part in ("unet", "text_encoder", "vae"):
        assert frozen_state(getattr(trained, part)) == frozen_state(getattr(base, part)), part
    start = load_pipeline(tiny)
    attach_lora(start.unet, start.text_encoder, SETTINGS, seed=7)
    before = lora_tensors(start.unet, start.text_encoder)
    after = lora_tensors(trained.unet, trained.text_encoder)
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_what_trains_is_what_the_formula_says(tiny: Generator) -> None:
    base = load_pipeline(tiny)
    expected = lora_parameter_count(base.unet, SETTINGS.unet_targets, 3)
    unet_only = SETTINGS.model_copy(update={"train_text_encoder": False})
    assert attach_lora(base.unet, base.text_encoder, unet_only, seed=0) == expected
    trainable = trainable_parameters(base.unet, base.text_encoder)
    assert sum(p.numel() for p in trainable) == expected
    # One level of 32 channels over a context of 16: one block down, one in the middle, two up.
    attention = 4 * (14 * 32 + 2 * 16)
    inner = [(16, 16), (16, 32), (32, 32), (32, 32), (64, 32), (48, 32), (48, 16), (32, 16)]
    convolutions = sum(9 * wide + out for wide, out in [*inner, (16, 4)])
    times = sum(64 + out for _, out in inner)
    assert expected == 3 * (attention + convolutions + times)


@pytest.mark.parametrize(
    ("name", "unet_size", "text_size", "context", "layers"),
    [
        ("sd-1.5", 859_520_964, 123_060_480, 768, 12),
        ("sd-2.1-base", 865_910_724, 340_387_840, 1024, 23),
    ],
)
def test_lora_counts_of_stable_diffusion(
    name: str, unet_size: int, text_size: int, context: int, layers: int
) -> None:
    unet, text_encoder = on_meta(name)
    assert sum(p.numel() for p in unet.parameters()) == unet_size
    assert sum(p.numel() for p in text_encoder.parameters()) == text_size
    # Attention blocks of width 320, 640, 1280: 2 down, 3 up, and one in the middle. Each adds
    # r * (14 width + 2 context): 4 * 2 widths to itself, 2 * 2 widths + 2 (width + context) across.
    blocks = {320: 5, 640: 5, 1280: 6}
    in_unet = 16 * sum(n * (14 * width + 2 * context) for width, n in blocks.items())
    in_text = 16 * layers * 4 * 2 * context
    count = attach_lora(unet, text_encoder, LoraSettings(), seed=0)
    trainable = trainable_parameters(unet, text_encoder)
    assert count == in_unet + in_text == sum(p.numel() for p in trainable)


def test_initial_weights_follow_from_the_seed_alone(tiny: Generator) -> None:
    found = []
    for seed, text in ((1, True), (1, False), (2, True)):
        pipeline = load_pipeline(tiny)
        settings = LoraSettings(rank=8, train_text_encoder=text)
        torch.rand(1)  # the global generator stands elsewhere each time
        state = torch.get_rng_state()
        attach_lora(pipeline.unet, pipeline.text_encoder, settings, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(lora_tensors(pipeline.unet, pipeline.text_encoder))
    first, unet_only, other = found
    assert all(torch.equal(first[name], value) for name, value in unet_only.items())
    downs = [name for name in first if ".lora_A." in name]
    assert len({first[name].numpy().tobytes() for name in downs}) == len(downs)
    assert not any(torch.equal(first[name], other[name]) for name in downs)
    values = torch.cat([first[name].flatten() for name in downs])
    assert float(values.std()) == pytest.approx(1 / 8, rel=0.05)
    assert not any(first[name].any() for name in first if ".lora_B." in name)


def test_a_fresh_lora_changes_nothing(tiny: Generator) -> None:
    pipeline = load_pipeline(tiny)
    before = predict(pipeline)
    attach_lora(pipeline.unet, pipeline.text_encoder, SETTINGS, seed=0)
    assert torch.equal(predict(pipeline), before)


def test_half_precision_bases_get_float32_lora_weights(tiny: Generator) -> None:
    pipeline = load_pipeline(tiny, dtype="bfloat16")
    attach_lora(pipeline.unet, pipeline.text_encoder, SETTINGS, seed=0)
    trainable = trainable_parameters(pipeline.unet, pipeline.text_encoder)
    assert {p.dtype for p in trainable} == {torch.float32}


@pytest.mark.parametrize("target", ["to_z", "norm1", "q"])
def test_a_target_that_is_no_linear_layer_is_named(tiny: Generator, target: str) -> None:
    pipeline = load_pipeline(tiny)
    settings = LoraSettings(unet_targets=("to_q", target))
    with pytest.raises(ConfigError, match=f"'{target}' names no linear layer or convolution"):
        attach_lora(pipeline.unet, pipeline.text_encoder, settings, seed=0)


def test_diffusers_loads_the_file_to_the_same_outputs(
    trained: Any, tiny: Generator, saved: Path
) -> None:
    loaded: StableDiffusionPipeline = load_pipeline(tiny)
    base = predict(loaded)
    loaded.load_lora_weights(saved)
    assert torch.equal(predict(loaded), predict(trained))
    assert (predict(loaded) - base).abs().max() > 0.1


def test_fusing_gives_the_trained_outputs_without_adapters(
    trained: Any, tiny: Generator, saved: Path
) -> None:
    pipeline = load_pipeline(tiny)
    modules = [name for name, _ in pipeline.unet.named_modules()]
    fuse_lora(pipeline, open_lora(saved), base_model_id=tiny.model_id)
    assert torch.allclose(predict(pipeline), predict(trained), atol=1e-5)
    assert [name for name, _ in pipeline.unet.named_modules()] == modules


def test_scale_goes_from_the_base_to_diffusers_own_scale(tiny: Generator, saved: Path) -> None:
    unchanged = load_pipeline(tiny)
    fuse_lora(unchanged, open_lora(saved), base_model_id=tiny.model_id, scale=0)
    assert torch.equal(predict(unchanged), predict(load_pipeline(tiny)))

    half, reference = load_pipeline(tiny), load_pipeline(tiny)
    fuse_lora(half, open_lora(saved), base_model_id=tiny.model_id, scale=0.5)
    reference.load_lora_weights(saved)
    reference.fuse_lora(components=["unet", "text_encoder"], lora_scale=0.5)
    assert torch.allclose(predict(half), predict(reference), atol=1e-5)


def test_a_lora_without_text_encoder_leaves_it_alone(tiny: Generator, tmp_path: Path) -> None:
    settings = LoraSettings(rank=2, train_text_encoder=False)
    source, fused, loaded = (load_pipeline(tiny) for _ in range(3))
    train(source, settings)
    tensors = lora_tensors(source.unet, source.text_encoder)
    save_lora(tmp_path, tensors, notes(tiny.model_id, settings))
    fuse_lora(fused, open_lora(tmp_path), base_model_id=tiny.model_id)
    assert frozen_state(fused.text_encoder) == frozen_state(source.text_encoder)
    assert torch.allclose(predict(fused), predict(source), atol=1e-5)
    loaded.load_lora_weights(tmp_path)
    assert torch.equal(predict(loaded), predict(source))


def test_the_header_tells_where_the_lora_comes_from(tiny: Generator, saved: Path) -> None:
    with safe_open(saved / LORA_FILE, framework="pt") as file:
        stored = json.loads(file.metadata()["factory"])
    assert stored["base_model_id"] == tiny.model_id
    assert stored["settings"]["rank"] == 3
    assert open_lora(saved).notes == notes(tiny.model_id)


def test_equal_loras_are_equal_files(trained: Any, saved: Path, tmp_path: Path) -> None:
    lora = open_lora(saved)
    for number in range(4):  # safetensors alone shuffles its header
        again = save_lora(tmp_path / str(number), lora.tensors, lora.notes)
        assert again.read_bytes() == (saved / LORA_FILE).read_bytes()


def test_a_lora_of_another_base_is_refused_and_both_are_named(saved: Path, tiny: Generator) -> None:
    pipeline = load_pipeline(tiny)
    with pytest.raises(ModelError, match=f"base {tiny.model_id}, this base is {'0' * 32}.*Load"):
        fuse_lora(pipeline, open_lora(saved), base_model_id="0" * 32)
    assert torch.equal(predict(pipeline), predict(load_pipeline(tiny)))


@pytest.mark.parametrize("keep", [0, 5, 400, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    path = saved / LORA_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"pytorch_lora_weights\.safetensors is missing, trunc"):
        open_lora(saved)


def test_a_missing_file_and_one_of_strangers_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing, truncated"):
        open_lora(tmp_path / "absent")
    save_file(load_file(saved / LORA_FILE), saved / LORA_FILE)
    with pytest.raises(ModelError, match="does not say on which base"):
        open_lora(saved)


def altered(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    down = next(name for name in tensors if name.endswith("to_q.lora_A.weight"))
    up = down.replace(".lora_A.", ".lora_B.")
    changed = dict(tensors)
    match name:
        case "wider":
            changed[down] = torch.zeros(3, 99)
        case "flat":
            changed[up] = torch.zeros(7)
        case "rank":
            changed |= {down: tensors[down][:2], up: tensors[up][:, :2]}
        case "unpaired":
            del changed[up]
        case "elsewhere":
            changed |= {key.replace("to_q", "to_z"): changed.pop(key) for key in (down, up)}
        case "empty":
            changed = {}
    return {key: value.contiguous() for key, value in changed.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("wider", "A of shapes"),
        ("flat", r"\(7,\)"),
        ("rank", r"wanted \[\(32, 3\)"),
        ("unpaired", "unpaired or foreign tensors"),
        ("elsewhere", "to_z, which is no layer"),
        ("empty", "it is empty"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_any_weight_changes(
    saved: Path, tiny: Generator, tmp_path: Path, change: str, said: str
) -> None:
    lora = open_lora(saved)
    save_lora(tmp_path / "altered", altered(change, dict(lora.tensors)), lora.notes)
    pipeline = load_pipeline(tiny)
    with pytest.raises(ModelError, match=said):
        fuse_lora(pipeline, open_lora(tmp_path / "altered"), base_model_id=tiny.model_id)
    assert frozen_state(pipeline.unet) == frozen_state(load_pipeline(tiny).unet)


def test_a_copied_folder_still_loads(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    assert open_lora(copy).notes == open_lora(saved).notes


def test_sharded_weights_are_gathered(tiny: Generator, tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    pipeline = load_pipeline(tiny)
    attach_lora(pipeline.unet, pipeline.text_encoder, SETTINGS, seed=0)
    whole = lora_tensors(pipeline.unet, pipeline.text_encoder)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        fully_shard(pipeline.unet, mesh=mesh)
        gathered = lora_tensors(pipeline.unet, pipeline.text_encoder)
    finally:
        distributed.destroy_process_group()
    assert all(torch.equal(gathered[name], value) for name, value in whole.items())
