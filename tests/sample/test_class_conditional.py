"""Class-conditional drawing: by class name, with a guidance whose ends are exact."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor

from factory.errors import ConfigError, DataError
from factory.methods.class_conditional.draw import ClassConditionalMethod
from factory.models.class_conditioning import mask_classes, mask_planes
from factory.models.class_unet import ClassConditionalPipeline, ClassUNet
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.models.export import write_generator
from factory.sample.engine import Engine
from factory.sample.guidance import guide, sides
from factory.sample.noise import batch_noise, step_generators
from factory.sample.plan import Batch
from factory.sample.recipe import Recipe, Request
from factory.sample.references import Reference
from factory.sample.schedulers import SCHEDULERS, make_scheduler
from tests.fakes.class_unet import CLASSES, WIDTH, tiny_class_unet

RECIPE = Recipe(
    model_id="0" * 32,
    method="class_conditional",
    class_name="good",
    class_id=2,
    prompt="a good embryo",
    guidance_scale=2.0,
    num_inference_steps=3,
    scheduler="ddim",
    height_px=32,
    width_px=32,
    seed=1,
    batch_size=3,
)


def pipeline_of(unet: ClassUNet) -> ClassConditionalPipeline:
    """The parts around `unet`, random; its null is no longer the zero it starts from."""
    with torch.no_grad():
        unet.condition.null.fill_(0.7)
    torch.manual_seed(9)  # noqa: TID251 -- initial weights have no generator argument
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=0.7,
    )
    text = unet.config.conditioning == "text"
    tokenizer = prompt_tokenizer(["a an embryo", *CLASSES]) if text else None
    return ClassConditionalPipeline(
        unet=unet,
        vae=autoencoder.eval(),
        scheduler=DDPMScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
        ),
        tokenizer=tokenizer,
        text_encoder=small_text_encoder(tokenizer, width=WIDTH).eval() if tokenizer else None,
    )


@pytest.fixture(scope="module")
def method() -> ClassConditionalMethod:
    return ClassConditionalMethod(pipeline_of(tiny_class_unet()), "cpu")


def requests_of(*names: str, **changes: object) -> list[Request]:
    recipe = replace(RECIPE, **changes)
    return [
        Request(recipe=replace(recipe, class_name=name), index=number)
        for number, name in enumerate(names)
    ]


def path(method: ClassConditionalMethod, requests: Sequence[Request], given: bool) -> Tensor:
    """The images of one path, drawn without guidance or the method's own loop."""
    recipe, seeds = requests[0].recipe, [request.seed for request in requests]
    labels = torch.tensor([CLASSES.index(request.recipe.class_name) for request in requests])
    scheduler = make_scheduler(recipe.scheduler, method.training_config, recipe.num_inference_steps)
    noisy = SCHEDULERS[recipe.scheduler].noisy
    extra = {"generator": step_generators(seeds)} if noisy else {}
    with torch.inference_mode():
        latents = batch_noise(seeds, (4, 8, 8)) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            present = torch.full((len(requests),), given)
            prediction = method.unet(scaled, timestep, labels, present).sample
            latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
        return method.vae.decode(latents / 0.7).sample


@pytest.mark.parametrize("scheduler", [name for name, s in SCHEDULERS.items() if s.flow is False])
def test_guidance_one_is_the_conditional_path_and_zero_the_unconditional(
    method: ClassConditionalMethod, scheduler: str
) -> None:
    drawn = {}
    for scale in (0.0, 1.0):
        requests = requests_of("good", "poor", "fair", scheduler=scheduler, guidance_scale=scale)
        drawn[scale] = method.draw(requests)
        assert torch.equal(drawn[scale], path(method, requests, given=bool(scale)))
        assert not torch.equal(drawn[scale], path(method, requests, given=not scale))
    assert drawn[1.0].shape == (3, 3, 32, 32)
    assert drawn[1.0].dtype == torch.float32


def test_only_guidance_between_or_beyond_takes_two_forwards(method: ClassConditionalMethod) -> None:
    sizes: list[int] = []
    hook = method.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for scale in (0.0, 1.0, 0.5, 3.0):
        method.draw(requests_of("good", "poor", guidance_scale=scale, num_inference_steps=1))
    hook.remove()
    assert sizes == [2, 2, 4, 4]


def test_guidance_is_a_line_through_both_predictions() -> None:
    without, given = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [1.0]])
    assert guide(torch.cat([without, given]), 2.0).tolist() == [[5.0], [0.0]]
    assert guide(given, 1.0) is given
    assert guide(without, 0.0) is without
    assert [sides(scale) for scale in (0, 1, 1.5)] == [(False,), (True,), (False, True)]


def test_a_slot_knows_its_class_and_not_its_neighbours(method: ClassConditionalMethod) -> None:
    requests = requests_of("good", "poor", "fair")
    drawn = method.draw(requests)
    assert torch.equal(method.draw(requests[::-1]), drawn.flip(0))
    other = replace(requests[0], recipe=replace(requests[0].recipe, class_name="poor"))
    noise = torch.zeros(1, 4, 8, 8)
    contexts = [method.conditions([request], (True,)) for request in (requests[0], other)]
    one, two = (method.unet(noise, 500, *context).sample for context in contexts)
    assert not torch.allclose(one, two, atol=1e-5)


def test_the_class_is_found_by_name_not_by_the_recipes_number(
    method: ClassConditionalMethod,
) -> None:
    requests = requests_of("good", "poor", class_id=1)
    labels, present = method.conditions(requests, (False, True))
    assert labels.tolist() == [2, 0, 2, 0]
    assert present.tolist() == [False, False, True, True]


def test_a_class_that_the_network_never_saw_is_refused(method: ClassConditionalMethod) -> None:
    with pytest.raises(ConfigError, match=r"unknown class 'blurred'.*poor, fair, good"):
        method.draw(requests_of("good", "blurred"))


def test_a_negative_prompt_that_nobody_reads_is_refused(method: ClassConditionalMethod) -> None:
    with pytest.raises(ConfigError, match="negative_prompt 'mould'"):
        method.draw(requests_of("good", negative_prompt="mould"))


def test_a_class_added_to_the_time_is_drawn() -> None:
    method = ClassConditionalMethod(pipeline_of(tiny_class_unet("class")), "cpu")
    requests = requests_of("good", "poor", "fair", guidance_scale=1.0)
    assert torch.equal(method.draw(requests), path(method, requests, given=True))


def test_a_text_network_reads_prompts_and_takes_an_empty_one_for_null() -> None:
    method = ClassConditionalMethod(pipeline_of(tiny_class_unet("text")), "cpu")
    prompts = ("a good embryo", "", "a poor embryo")
    requests = [
        Request(recipe=replace(RECIPE, prompt=prompt), index=number)
        for number, prompt in enumerate(prompts)
    ]
    embeddings, present = method.conditions(requests, (False, True))
    assert embeddings.shape == (6, method._text.tokenizer.model_max_length, WIDTH)
    assert present.tolist() == [False] * 3 + [True, False, True]
    assert method.draw(requests).isfinite().all()
    away = [replace(r, recipe=replace(r.recipe, negative_prompt="a poor")) for r in requests]
    assert method.conditions(away, (False,))[1].tolist() == [True] * 3


def over(*corners: int) -> list[Reference]:
    """References whose masks hold a square of 255, at different places."""
    masks = np.zeros((len(corners), 32, 32), np.uint8)
    for mask, corner in zip(masks, corners, strict=True):
        mask[corner : corner + 12, corner : corner + 12] = 255
    image = np.zeros((32, 32, 3), np.uint8)
    return [
        Reference(id=str(c), label="good", image=image, mask=m)
        for c, m in zip(corners, masks, strict=True)
    ]


def test_masks_are_drawn_over_and_come_with_the_images() -> None:
    method = ClassConditionalMethod(
        pipeline_of(tiny_class_unet("concat", condition_channels=0, mask_values=(0, 255))), "cpu"
    )
    same = [requests_of("good")[0]] * 2
    drawn = method.drawn(same, over(0, 16))
    assert not np.array_equal(drawn.images[0], drawn.images[1])
    assert drawn.masks is not None
    assert [np.argwhere(mask == 1)[0].tolist() for mask in drawn.masks] == [[0, 0], [16, 16]]
    again = method.drawn(same[:1], over(0))
    assert np.array_equal(again.images[0], method.drawn(same[:1], over(0)).images[0])
    unconditional = [replace(r, recipe=replace(r.recipe, guidance_scale=0.0)) for r in same]
    deaf = method.drawn(unconditional, over(0, 16))
    assert np.array_equal(deaf.images[0], deaf.images[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masks_are_drawn_over_in_half_precision(dtype: torch.dtype) -> None:
    unet = tiny_class_unet("concat", condition_channels=0, mask_values=(0, 255)).to(dtype)
    drawn = ClassConditionalMethod(pipeline_of(unet), "cpu").drawn(requests_of("good"), over(0))
    assert drawn.images.shape == (1, 32, 32, 3)
    assert drawn.images.std() > 1


def test_masks_belong_to_networks_that_are_shown_them(method: ClassConditionalMethod) -> None:
    concat = ClassConditionalMethod(
        pipeline_of(tiny_class_unet("concat", condition_channels=0, mask_values=(0, 1))), "cpu"
    )
    requests = requests_of("good")
    with pytest.raises(ConfigError, match=r"options\.masks to reference"):
        concat.drawn(requests, [])
    with pytest.raises(ConfigError, match=r"options\.masks to none"):
        method.drawn(requests, over(0))
    with pytest.raises(DataError, match="value 255, the network knows 0, 1"):
        concat.drawn(requests, over(0))
    with pytest.raises(ConfigError, match="none are at hand"):
        concat.conditions(requests, (True,))


def test_a_mask_becomes_shares_of_its_values() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :, :1] = 7
    planes = mask_planes(masks, (0, 7), side=2)
    assert planes[0, 1].tolist() == [[0.5, 0.0], [0.5, 0.0]]
    assert torch.equal(planes.sum(1), torch.ones(1, 2, 2))
    assert mask_classes(masks, (0, 7))[0, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("conditioning", ["context_class", "text"])
def test_a_folder_draws_what_its_parts_drew(tmp_path: Path, conditioning: str) -> None:
    pipeline = pipeline_of(tiny_class_unet(conditioning))
    pipeline.save_pretrained(tmp_path / "generator")
    loaded = ClassConditionalPipeline.from_pretrained(
        tmp_path / "generator", local_files_only=True, use_safetensors=True
    )
    requests = requests_of("good", "poor")
    drawn = [ClassConditionalMethod(parts, "cpu").draw(requests) for parts in (pipeline, loaded)]
    assert torch.equal(*drawn)


def test_an_exported_generator_is_drawn_by_the_engine(tmp_path: Path) -> None:
    pipeline = pipeline_of(tiny_class_unet())
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "scheduler")}
    manifest = {
        "name": "embryos",
        "method": "class_conditional",
        "size_px": 32,
        "class_names": list(CLASSES),
    }
    generator = write_generator(tmp_path / "made", parts=parts, manifest=manifest, card="# e\n")
    recipe = replace(RECIPE, model_id=generator.model_id)
    requests = tuple(Request(recipe=recipe, index=i) for i in range(2))
    drawn = Engine(generator).draw(Batch(index=0, size=3, requests=requests))
    assert drawn.images.shape == (2, 32, 32, 3)
    text = replace(recipe, method="text")
    with pytest.raises(ConfigError, match="method 'text' is not that of generator"):
        Engine(generator).draw(Batch(index=0, size=3, requests=(Request(recipe=text, index=0),)))
