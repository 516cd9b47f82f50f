"""Every method draws on a pretended GPU, in every type, and never waits for it within a step."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch

from factory.errors import ConfigError
from factory.models.generator import Generator
from factory.models.pipeline import DTYPES
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan
from factory.sample.references import References, open_references
from factory.sample.schedulers import SCHEDULERS
from tests.fakes.bridge import lora_per_class, tiny_bridge
from tests.fakes.class_unet import CLASSES, tiny_class_generator
from tests.fakes.extractors import install
from tests.fakes.pair_generator import tiny_pairs
from tests.fakes.pairs import write_pairs
from tests.fakes.pretended_gpu import PretendedGpu, pretended_gpu
from tests.fakes.tiny import tiny_generator

NOISE = "utils/torch_utils.py"
WAITED = {
    **dict.fromkeys(("ddpm", "lcm", "own"), NOISE),
    "unipc": "schedulers/scheduling_unipc_multistep.py",
}
"""Files of diffusers that wait in a step: for noise drawn, or coefficients made, on the CPU."""
INPAINT = {"inpaint": {"jump_length": 1, "repeats": 2, "dilation_share": 0.2}}
STYLE = {
    "feature": 2,
    "direction": 1,
    "patch": 0.1,
    "perceptual": 1,
    "target": 1,
    "source": 1,
    "range": 1,
    "extractor": "tiny",
    "perceptual_extractor": "tiny_maps",
    "until": 0,
    "skip_timesteps": 1,
}
PAIRS = {
    "noise": {},
    "reference": {"start": "reference", "skip_timesteps": 1},
    "inpaint": INPAINT,
    "styled": {"style": STYLE, "match_colours": True},
    "styled on x0": {"style": STYLE | {"gradient": "x0"}},
}


def waits_a_step(
    generator: Generator,
    dtype: str = "float32",
    references: References | None = None,
    *,
    steps: tuple[int, int] = (1, 2),
    **job: object,
) -> Counter[str]:
    """Draw a batch with few and with more steps; return what waited more often then."""
    with pretended_gpu() as gpu:
        engine = Engine(generator, dtype=dtype, device="cuda", references=references)
        return more_waits(gpu, engine, references, steps, job)


def more_waits(
    gpu: PretendedGpu,
    engine: Engine,
    references: References | None,
    steps: tuple[int, int],
    job: Mapping[str, object],
) -> Counter[str]:
    known = {"num_images": 3, "batch_size": 3, "guidance_scale": 2.0, "seed": 1} | job
    waits = []
    for count in steps:
        config = GenerateConfig.model_validate(known | {"num_inference_steps": count})
        before = gpu.waits.copy()
        drawn = engine.draw(make_plan(config, engine.generator, references).batch(0))
        assert drawn.images.shape[1:] == (16, 16, 3)
        waits.append(gpu.waits - before)
    assert waits[0]  # the images came down
    return waits[1] - waits[0]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return open_references(*write_pairs(tmp_path_factory.mktemp("real")))


@pytest.fixture(scope="module")
def embryos(tmp_path_factory: pytest.TempPathFactory) -> References:
    return open_references(*write_pairs(tmp_path_factory.mktemp("embryos"), classes=CLASSES))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> References:
    names = ("lymphocyte", "monocyte")
    return open_references(*write_pairs(tmp_path_factory.mktemp("cells"), classes=names))


@pytest.fixture(scope="module")
def extractors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path_factory.mktemp("extractors"))
        yield


@pytest.mark.parametrize("scheduler", [name for name, s in SCHEDULERS.items() if not s.flow])
def test_no_solver_waits_in_a_step_but_for_what_diffusers_makes_on_the_host(
    tiny: Generator, scheduler: str
) -> None:
    waits = waits_a_step(tiny, scheduler=scheduler, steps=(2, 3))
    own = WAITED.get(scheduler)
    assert all(own is not None and own in place for place in waits), waits


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_text_is_drawn_in_half_precision(tiny: Generator, dtype: str) -> None:
    assert not waits_a_step(tiny, dtype)


@pytest.mark.parametrize("components", [None, 4])
def test_an_offloaded_part_lies_on_the_gpu_while_it_computes(
    components: int | None, tmp_path: Path
) -> None:
    """accelerate moves text encoder, U-Net and autoencoder in turn: the same bits, less memory."""
    generator = tiny_generator(tmp_path / "g", components=components)
    config = GenerateConfig(num_images=3, batch_size=3, num_inference_steps=2, seed=1)
    batch = make_plan(config, generator).batch(0)
    seen: list[dict[str, str]] = []
    with pretended_gpu():
        whole = Engine(generator, device="cuda").draw(batch)
        engine = Engine(generator, device="cuda", offload=True)
        parts = {name: getattr(engine.pipeline, name) for name in ("unet", "vae", "text_encoder")}

        def places() -> dict[str, str]:
            found = {name: next(part.parameters()) for name, part in parts.items()}
            return {name: parameter.device.type for name, parameter in found.items()}

        assert set(places().values()) == {"cpu"}
        parts["unet"].conv_in.register_forward_hook(lambda *_: seen.append(places()))
        parts["vae"].decoder.register_forward_hook(lambda *_: seen.append(places()))
        drawn = engine.draw(batch)
        assert seen[0] == seen[1] == {"unet": "cuda", "vae": "cpu", "text_encoder": "cpu"}
        assert seen[2] == {"unet": "cpu", "vae": "cuda", "text_encoder": "cpu"}
        assert (drawn.images == whole.images).all()


def test_parts_without_an_order_are_not_offloaded(tmp_path: Path) -> None:
    generator = tiny_class_generator(tmp_path / "g", "class")
    with pretended_gpu(), pytest.raises(ConfigError, match="whose parts have no order"):
        Engine(generator, device="cuda", offload=True)
    assert Engine(generator, device="cpu", offload=True)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Generator]:
    folder = tmp_path_factory.mktemp("by-class")
    return cache(lambda conditioning: tiny_class_generator(folder / conditioning, conditioning))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("conditioning", ["context_class", "class", "text", "concat"])
def test_classes_are_drawn(
    by_class: Callable[[str], Generator], embryos: References, conditioning: str, dtype: str
) -> None:
    generator = by_class(conditioning)
    if conditioning == "concat":
        options = {"options": {"masks": "reference"}}
        assert not waits_a_step(generator, dtype, embryos, **options)
    else:
        assert not waits_a_step(generator, dtype)


@pytest.mark.usefixtures("extractors")
@pytest.mark.parametrize(
    ("latent", "dtype"),
    [(False, "float32"), (False, "bfloat16"), (True, "float32"), (True, "float16")],
    ids=["pixels in float32", "pixels in bfloat16", "latents in float32", "latents in float16"],
)
def test_pairs_are_drawn_in_every_mode(
    tmp_path: Path, references: References, latent: bool, dtype: str
) -> None:
    generator = tiny_pairs(tmp_path / "pairs", latent=latent)
    known = {"guidance_scale": 1, "scheduler": "ddim"}
    with pretended_gpu() as gpu:
        engine = Engine(generator, dtype=dtype, device="cuda", references=references)
        for mode, options in PAIRS.items():
            found = more_waits(gpu, engine, references, (2, 3), known | {"options": options})
            assert not found, mode


@pytest.mark.parametrize(
    ("measure", "dtype"),
    [("radial", "float32"), ("radial", "bfloat16"), ("centre_row", "float16")],
)
def test_bridges_are_drawn(
    tmp_path: Path, tiny: Generator, cells: References, measure: str, dtype: str
) -> None:
    names = ("lymphocyte", "monocyte")
    bound = measure == "radial"
    made = tiny_bridge if bound else lambda folder, names: lora_per_class(folder, tiny, names)
    job = {
        "method": "bridge",
        "scheduler": "ddim",
        "options": {
            "depths": 1, "measure": measure, "policy": "uniform", "min_psnr_db": 1.0, "slots": 2,
            "corrections": int(bound),
        },
    }  # fmt: skip
    assert not waits_a_step(made(tmp_path / "made", names), dtype, cells, steps=(2, 3), **job)


def test_tensors_of_two_devices_do_not_meet() -> None:
    with pretended_gpu():
        there, here = torch.ones(2, device="cuda"), torch.ones(2)
        with pytest.raises(RuntimeError, match="found at least two devices"):
            there + here
