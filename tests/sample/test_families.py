"""Any text-to-image folder of diffusers draws, redraws and resumes: an image by itself."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from factory.errors import ConfigError, ModelError
from factory.models.families import GENERIC, family_of, side_px
from factory.models.generator import find_generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.noise import batch_noise
from factory.sample.prepare import make_plan, prepare, prepare_resume
from factory.sample.regenerate import regenerate_images
from factory.sample.run import execute
from tests.fakes.families import PIPELINES, SIZES, tiny_pipeline
from tests.fakes.pretended_gpu import pretended_gpu

FLOWS = ("sd3", "flux", "sana")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family, made when it is first asked for."""
    root = tmp_path_factory.mktemp("families")

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = tiny_pipeline(name, root / name)
            return self[name]

    return Made()


def config_of(folder: Path, name: str, **changes: object) -> GenerateConfig:
    asked = {
        "model": str(folder),
        "num_images": 5,
        "classes": {"cell": "a cell", "nucleus": "a red nucleus"},
        "num_inference_steps": 2,
        "batch_size": 2,
        "seed": 3,
        "size_px": SIZES.get(name, 16),
        "gates": {},
    }
    return GenerateConfig(**(asked | changes))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_run_is_drawn_resumed_and_redrawn_identically(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    uri = str(tmp_path / "catalog")
    run = prepare(config_of(folders[name], name), uri)
    stopped = execute(run, stream=draw_here)
    list(itertools.islice(stopped, 1))
    stopped.close()
    *_, last = execute(prepare_resume(run.run_id, uri), stream=draw_here)
    assert last.complete
    outcomes = list(regenerate_images(uri, sample="100%"))
    assert [outcome.tier for outcome in outcomes] == [0] * last.accepted
    assert len(outcomes) == 5


@pytest.mark.parametrize("name", PIPELINES)
def test_a_slot_does_not_know_its_neighbours(name: str, folders: dict[str, Path]) -> None:
    generator = find_generator(str(folders[name]))
    config = config_of(folders[name], name, scheduler="own", guidance_scale=3)
    batch = make_plan(config.model_copy(update={"batch_size": 5}), generator).batch(0)
    engine = Engine(generator)
    drawn = engine.draw(batch).images
    turned = engine.draw(replace(batch, requests=batch.requests[::-1])).images
    alone = engine.draw(replace(batch, requests=batch.requests[2:3])).images
    assert np.array_equal(drawn, turned[::-1])
    assert np.array_equal(drawn[2:3], alone)
    assert len({image.tobytes() for image in drawn}) == len(drawn)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "pixart", "sana"])
def test_it_is_what_the_pipeline_draws_from_our_noise(name: str, folders: dict[str, Path]) -> None:
    """Embeddings that are kept, packed noise, one decoding at a time: the same image."""
    generator = find_generator(str(folders[name]))
    config = config_of(folders[name], name, scheduler="own", num_images=1, guidance_scale=3)
    config = config.model_copy(update={"classes": {"cell": "a cell"}, "batch_size": 1})
    batch = make_plan(config, generator).batch(0)
    (request,) = batch.requests
    pipeline = DiffusionPipeline.from_pretrained(folders[name])
    pipeline.set_progress_bar_config(disable=True)
    side = request.recipe.height_px
    noise = batch_noise([request.seed], (4, side // 2, side // 2))
    if name == "flux":
        noise = pipeline._pack_latents(noise, 1, 4, side // 2, side // 2)
    asked = {"height": side, "width": side, "num_inference_steps": 2, "guidance_scale": 3.0}
    if name in ("pixart", "sana"):
        asked |= {"use_resolution_binning": False, "clean_caption": False}
    with torch.no_grad():
        image = pipeline("a cell", latents=noise, output_type="pt", **asked).images
    wanted = (image[0].permute(1, 2, 0) * 255).round().numpy()
    drawn = Engine(generator).draw(batch).images[0]
    assert np.abs(wanted - drawn.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "pixart", "sana"])
def test_it_is_drawn_in_half_precision(name: str, folders: dict[str, Path]) -> None:
    generator = find_generator(str(folders[name]))
    config = config_of(folders[name], name, scheduler="own", dtype="bfloat16")
    drawn = Engine(generator, dtype="bfloat16").draw(make_plan(config, generator).batch(0)).images
    assert drawn.dtype == np.uint8
    assert drawn.std() > 0


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "pixart", "sana"])
def test_on_a_pretended_gpu_it_is_drawn_and_never_waited_for_within_a_step(
    name: str, folders: dict[str, Path]
) -> None:
    generator, waits = find_generator(str(folders[name])), []
    with pretended_gpu() as gpu:
        engine = Engine(generator, dtype="bfloat16", device="cuda")
        for steps in (2, 3):
            asked = {"scheduler": "own", "dtype": "bfloat16", "num_inference_steps": steps}
            plan = make_plan(config_of(folders[name], name, **asked), generator)
            before = gpu.waits.copy()
            assert engine.draw(plan.batch(0)).images.std() > 0
            waits.append(gpu.waits - before)
    assert waits[0]  # the images came down
    assert not waits[1] - waits[0]


@pytest.mark.parametrize("scheduler", ["own", "euler", "lcm", "dpmpp_2m", "ddpm"])
def test_models_of_diffusion_are_drawn_with_any_of_their_schedulers(
    scheduler: str, folders: dict[str, Path]
) -> None:
    generator = find_generator(str(folders["sdxl"]))
    plan = make_plan(config_of(folders["sdxl"], "sdxl", scheduler=scheduler), generator)
    assert Engine(generator).draw(plan.batch(0)).images.shape == (2, 16, 16, 3)


@pytest.mark.parametrize("name", FLOWS)
def test_flows_have_their_own_scheduler_where_none_is_named(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    uri = str(tmp_path / "catalog")
    assert prepare(config_of(folders[name], name), uri).config.scheduler == "own"
    with pytest.raises(ConfigError, match="'dpmpp_2m' is for models that learnt a diffusion"):
        prepare(config_of(folders[name], name, scheduler="dpmpp_2m"), uri)
    drawn = prepare(config_of(folders[name], name, scheduler="flow_euler"), uri)
    assert Engine(drawn.generator).draw(drawn.plan.batch(0)).images.ndim == 4


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("sd", {"scheduler": "flow_euler"}, "is for models that learnt a flow"),
        ("sd", {"scheduler": "lcm", "num_inference_steps": 60}, "cannot take 60 steps"),
        ("sd3", {"size_px": 24}, "24 is no multiple of 16"),
        ("flux", {"negative_prompt": "blur"}, "FLUX.1 is told its guidance"),
        ("sdxl", {"guidance_scale": 0.5}, "guide above 1 alone"),
        ("lcm", {"guidance_scale": 0, "scheduler": "own"}, "guide above 1 alone"),
    ],
)
def test_what_a_family_does_not_draw_is_refused_before_anything_starts(
    name: str, changes: dict[str, object], told: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        prepare(config_of(folders[name], name, **changes), str(tmp_path / "catalog"))


def test_guidance_zero_is_the_path_of_no_prompt(folders: dict[str, Path]) -> None:
    generator = find_generator(str(folders["sd3"]))
    method = Engine(generator)._drawer("text", None)

    def embeds(prompt: str, guidance_scale: float) -> torch.Tensor:
        asked = {"guidance_scale": guidance_scale, "scheduler": "own", "classes": {"cell": prompt}}
        plan = make_plan(config_of(folders["sd3"], "sd3", **asked), generator)
        return method._conditions(plan.batch(0).requests)["prompt_embeds"]

    assert embeds("a cell", 0).equal(embeds("a red nucleus", 0))
    assert not embeds("a cell", 1).equal(embeds("a red nucleus", 1))
    assert embeds("a cell", 0).equal(embeds("", 1))


def test_every_prompt_is_encoded_once(folders: dict[str, Path]) -> None:
    generator = find_generator(str(folders["flux"]))
    engine, calls = Engine(generator), []
    engine._pipeline.text_encoder_2.register_forward_pre_hook(lambda *_: calls.append(1))
    plan = make_plan(config_of(folders["flux"], "flux", num_images=8, scheduler="own"), generator)
    for batch in plan.batches():
        engine.draw(batch)
    assert len(calls) == 2 * 2  # two prompts, each with the empty one beside it


@pytest.mark.parametrize(
    ("name", "size_px"),
    [("sd", 64), ("sdxl", 16), ("sd3", 16), ("flux", 1024), ("pixart", 16), ("sana", 32)],
)
def test_the_size_is_what_the_folder_says(
    name: str, size_px: int, folders: dict[str, Path]
) -> None:
    assert side_px(folders[name]) == size_px
    assert (family_of(folders[name]) is GENERIC) is False


def test_a_folder_of_another_kind_is_refused_with_what_it_is(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for named, told in (
        ("StableVideoDiffusionPipeline", "draws no images from text"),
        ("StableDiffusionXLControlNetPipeline", "needs a control image"),
        ("NobodysPipeline", "the installed diffusers does not know"),
    ):
        folder = tmp_path / named
        folder.mkdir()
        for path in folders["sd"].iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "model_index.json").unlink()
        stored = json.loads((folders["sd"] / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(stored | {"_class_name": named}))
        with pytest.raises(ModelError, match=told):
            prepare(config_of(folder, "sd"), str(tmp_path / "catalog"))


def test_a_folder_of_half_precision_alone_is_read_and_a_chat_template_names_it(
    tmp_path: Path,
) -> None:
    folder = tiny_pipeline("sd3", tmp_path / "sd3")
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    before = find_generator(str(folder))
    plan = make_plan(config_of(folder, "sd3", scheduler="own"), before)
    assert Engine(before).draw(plan.batch(0)).images.shape == (2, 16, 16, 3)
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    assert find_generator(str(folder)).model_id != before.model_id
