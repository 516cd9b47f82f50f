"""An image depends on its request alone (promise I2), whoever draws it and beside whom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.utils import logging

from factory.errors import ClusterError, ConfigError, ModelError
from factory.methods.text.draw import TextMethod
from factory.models.conditioning import tokenize
from factory.models.generator import Generator
from factory.models.pipeline import load_pipeline
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.noise import batch_noise
from factory.sample.plan import Batch, Plan
from factory.sample.prepare import make_plan
from factory.sample.regenerate import in_threads
from factory.sample.schedulers import SCHEDULERS, make_scheduler


def plan_of(tiny: Generator, **changes: object) -> Plan:
    known = {
        "model": str(tiny.folder),
        "num_images": 9,
        "classes": {name: f"a {name}" for name in tiny.class_names},
        "num_inference_steps": 3,
        "batch_size": 4,
        "seed": 1,
    }
    return make_plan(GenerateConfig(**(known | changes)), tiny)


@pytest.fixture(scope="module")
def engine(tiny: Generator) -> Engine:
    return Engine(tiny)


def test_loading_shows_no_bars_and_leaves_the_setting(
    tiny: Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.is_progress_bar_enabled()
    load_pipeline(tiny)
    assert capsys.readouterr().err == ""
    assert logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize("scheduler", [n for n, s in SCHEDULERS.items() if not s.flow])
def test_a_slot_does_not_know_its_neighbours(
    engine: Engine, tiny: Generator, scheduler: str
) -> None:
    batch = plan_of(tiny, scheduler=scheduler).batch(0)
    drawn = engine.draw(batch).images
    turned = engine.draw(replace(batch, requests=batch.requests[::-1])).images
    alone = engine.draw(replace(batch, requests=batch.requests[2:3])).images
    assert np.array_equal(drawn, turned[::-1])
    assert np.array_equal(drawn[2:3], alone)
    assert len({image.tobytes() for image in drawn}) == len(drawn)


def test_an_engine_tells_in_how_many_threads_it_draws(engine: Engine) -> None:
    for count in (1, 3):
        with in_threads(count):
            assert engine.fingerprint["threads"] == str(count)


def test_a_short_batch_gives_only_what_was_asked(engine: Engine, tiny: Generator) -> None:
    last = plan_of(tiny).batch(2)
    assert len(last.requests) == 1
    assert engine.draw(last).images.shape == (1, 16, 16, 3)


def test_guidance_one_takes_one_forward_a_step(
    engine: Engine, tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = engine._pipeline.unet
    sizes = []
    hook = unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    engine.draw(plan_of(tiny, guidance_scale=1).batch(0))
    engine.draw(plan_of(tiny, guidance_scale=2).batch(0))
    hook.remove()
    assert sizes == [4] * 3 + [8] * 3


@torch.inference_mode()
@pytest.mark.parametrize(("guidance_scale", "prompt"), [(1, "a monocyte"), (0, "")])
def test_guidance_one_is_the_path_of_the_prompt_and_zero_that_of_none(
    tiny: Generator, guidance_scale: int, prompt: str
) -> None:
    asked = {"classes": {"monocyte": "a monocyte"}, "num_images": 4}
    batch = plan_of(tiny, guidance_scale=guidance_scale, **asked).batch(0)
    pipeline, recipe = load_pipeline(tiny), batch.requests[0].recipe
    context = pipeline.text_encoder(tokenize(pipeline.tokenizer, [prompt] * 4))[0]
    scheduler = make_scheduler(
        recipe.scheduler, pipeline.scheduler.config, recipe.num_inference_steps
    )
    latents = batch_noise([r.seed for r in batch.requests], (4, 4, 4)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        said = pipeline.unet(scheduler.scale_model_input(latents, timestep), timestep, context)
        latents = scheduler.step(said.sample, timestep, latents).prev_sample
    wanted = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    assert torch.equal(TextMethod(pipeline, "cpu").draw(batch.requests), wanted)


def test_every_prompt_is_encoded_once(tiny: Generator) -> None:
    engine = Engine(tiny)
    calls = []
    encoder = engine._pipeline.text_encoder
    encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for batch in plan_of(tiny, num_images=24).batches():
        engine.draw(batch)
    assert len(calls) == len(tiny.class_names) + 1  # and the empty negative prompt


def test_the_prompt_matters(engine: Engine, tiny: Generator) -> None:
    one, other = (
        plan_of(tiny, classes={"monocyte": prompt}, num_images=1).batch(0)
        for prompt in ("a monocyte", "a neutrophil")
    )
    recipe = replace(other.requests[0].recipe)
    assert one.requests[0].recipe.digest != recipe.digest
    assert not np.array_equal(engine.draw(one).images, engine.draw(other).images)


def test_a_recipe_of_another_model_is_refused(engine: Engine, tiny: Generator) -> None:
    request = plan_of(tiny).batch(0).requests[0]
    foreign = replace(request, recipe=replace(request.recipe, model_id="0" * 32))
    with pytest.raises(ConfigError, match="made for model 0000"):
        engine.draw(Batch(index=0, size=4, requests=(foreign,)))


def test_an_unknown_dtype_is_refused(tiny: Generator) -> None:
    with pytest.raises(ConfigError, match="float8"):
        Engine(tiny, dtype="float8")


def test_the_pipeline_is_one_that_diffusers_runs(tiny: Generator) -> None:
    """The folder is an ordinary `StableDiffusionPipeline`: others can use it without us."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny.folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a monocyte", num_inference_steps=2, height=16, width=16).images
    assert images[0].size == (16, 16)


def test_a_folder_that_diffusers_cannot_load_is_a_model_error(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    def broken(*_: object, **__: object) -> None:
        raise OSError("no vae here")

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", broken)
    with pytest.raises(ModelError, match="no vae here"):
        Engine(tiny)


def test_memory_that_runs_out_on_a_gpu_is_told_with_what_to_set(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(TextMethod, "draw", full)
    batch = plan_of(tiny).batch(0)
    with pytest.raises(ClusterError, match=r"4 images of 16 px at once\).*stream.offload: true"):
        Engine(tiny).draw(batch)
