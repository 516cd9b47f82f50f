"""Pairs through the engine: from noise, from a real pair, inside one; the same bits every time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.errors import ConfigError, DataError
from factory.methods.pairs.draw import PairsMethod
from factory.methods.pairs.options import PairsOptions
from factory.methods.pairs.real import dilated
from factory.models.generator import Generator
from factory.real.images import encode_png
from factory.real.sources import open_dataset
from factory.real.splits import load_split
from factory.sample.config import GenerateConfig
from factory.sample.drawn import Drawn
from factory.sample.engine import Engine
from factory.sample.plan import Batch, Plan
from factory.sample.prepare import make_plan, with_defaults
from factory.sample.references import References, open_references
from tests.fakes.pair_generator import tiny_pairs
from tests.fakes.pairs import write_pairs

INPAINT = {"inpaint": {"jump_length": 2, "repeats": 2, "dilation_share": 0.2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_pairs(tmp_path_factory.mktemp("models") / "pairs")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return open_references(*write_pairs(tmp_path_factory.mktemp("real")))


@pytest.fixture(scope="module")
def engine(model: Generator, references: References) -> Engine:
    return Engine(model, references=references)


def plan_of(
    model: Generator,
    references: References | None = None,
    options: object = None,
    **changes: object,
) -> Plan:
    known = {
        "num_images": 5,
        "num_inference_steps": 4,
        "batch_size": 4,
        "guidance_scale": 1,
        "scheduler": "ddim",
        "seed": 1,
        "options": options or {},
    }
    return make_plan(GenerateConfig.model_validate(known | changes), model, references)


@pytest.fixture
def draw(engine: Engine, model: Generator, references: References) -> Callable[..., Drawn]:
    def drawn(options: object = None, **changes: object) -> Drawn:
        return engine.draw(plan_of(model, references, options, **changes).batch(0))

    return drawn


MODES = {
    "noise": {},
    "grey": {"start": "grey", "skip_timesteps": 1},
    "reference": {"start": "reference", "skip_timesteps": 1},
    "inpaint": INPAINT,
    "colours": {"match_colours": True, "target": "random"},
    "styled": {"style": {"patch": 0.1, "target": 2, "range": 1, "skip_timesteps": 2}},
}


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("mode", MODES)
def test_a_pair_depends_on_its_request_alone(
    engine: Engine, model: Generator, references: References, mode: str, scheduler: str
) -> None:
    batch = plan_of(model, references, MODES[mode], scheduler=scheduler).batch(0)
    drawn = engine.draw(batch)
    turned = engine.draw(replace(batch, requests=batch.requests[::-1]))
    alone = engine.draw(replace(batch, requests=batch.requests[2:3]))
    assert drawn.images.shape == (4, 16, 16, 3)
    assert drawn.masks is not None
    assert turned.masks is not None
    assert np.array_equal(drawn.images, turned.images[::-1])
    assert np.array_equal(drawn.masks, turned.masks[::-1])
    assert np.array_equal(drawn.images[2:3], alone.images)
    assert len({image.tobytes() for image in drawn.images}) == 4
    assert set(np.unique(drawn.masks)) <= {0, 1}


@pytest.mark.parametrize("paste", ["hard", "blend"])
def test_outside_the_dilated_mask_the_real_pair_stays_bit_for_bit(
    model: Generator, references: References, engine: Engine, paste: str
) -> None:
    options = {"inpaint": {**INPAINT["inpaint"], "paste": paste, "blend_share": 0.1}}
    batch = plan_of(model, references, options).batch(0)
    drawn = engine.draw(batch)
    for number, request in enumerate(batch.requests):
        real = references.get(str(request.recipe.reference_id), 16, masks=True)
        region = dilated((real.mask > 0).astype(np.uint8), 3)
        assert 0.1 < region.mean() < 0.9
        assert np.array_equal(drawn.images[number][~region], real.image[~region])
        assert (drawn.images[number][region] != real.image[region]).mean() > 0.5
        assert not drawn.masks[number][~region].any()


@pytest.mark.parametrize("paste", ["hard", "none"])
def test_a_kept_mask_is_the_real_one_and_the_image_is_another(
    model: Generator, references: References, engine: Engine, paste: str
) -> None:
    options = {"inpaint": {**INPAINT["inpaint"], "paste": paste, "keep_mask": True}}
    batch = plan_of(model, references, options).batch(0)
    drawn = engine.draw(batch)
    free = engine.draw(plan_of(model, references, INPAINT).batch(0))
    for number, request in enumerate(batch.requests):
        real = references.get(str(request.recipe.reference_id), 16, masks=True)
        assert np.array_equal(drawn.masks[number] > 0, real.mask > 0)
        region = dilated((real.mask > 0).astype(np.uint8), 3)
        assert (drawn.images[number][region] != real.image[region]).mean() > 0.5
    assert (drawn.images != free.images).any()  # the network saw the mask


def test_a_recipe_that_keeps_no_mask_is_named_as_before_there_was_a_choice(
    model: Generator, references: References
) -> None:
    named = plan_of(model, references, INPAINT).batch(0).requests[0].recipe.options
    assert "keep_mask" not in str(named)
    assert "jump_length" in str(named)


def test_without_pasting_the_network_redraws_everything(draw: Callable[..., Drawn]) -> None:
    free = draw({"inpaint": {**INPAINT["inpaint"], "paste": "none"}})
    held = draw(INPAINT)
    assert (free.images != held.images).any(-1).mean() > 0.6


def test_inpainting_walks_as_often_as_repaint_does(
    engine: Engine, model: Generator, references: References
) -> None:
    engine.draw(plan_of(model, references).batch(0))  # the network is loaded
    sizes: list[int] = []
    hook = engine._pipeline.unet.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))
    )
    options = {"inpaint": {"jump_length": 5, "repeats": 3}}
    engine.draw(plan_of(model, references, options, num_inference_steps=20).batch(0))
    hook.remove()
    assert sizes == [4] * (20 + 3 * 5 * 2)  # jumps from levels 0, 5 and 10, twice each


def test_the_more_is_skipped_the_nearer_to_the_reference(
    draw: Callable[..., Drawn], references: References, model: Generator
) -> None:
    """With an untrained network too: what is left of the real image grows with the skip."""
    batch = plan_of(model, references, {"start": "reference"}, num_inference_steps=10).batch(0)
    real = np.stack(
        [references.get(str(r.recipe.reference_id), 16, masks=True).image for r in batch.requests]
    )
    errors = [
        np.abs(
            draw({"start": "reference", "skip_timesteps": skip}, num_inference_steps=10).images
            - real.astype(int)
        ).mean()
        for skip in (2, 7, 9)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.4 * errors[0]


def test_matched_colours_are_the_targets(
    engine: Engine, model: Generator, references: References
) -> None:
    batch = plan_of(model, references, {"match_colours": True, "target": "sequential"}).batch(0)
    drawn = engine.draw(batch)
    for image, request in zip(drawn.images, batch.requests, strict=True):
        assert request.recipe.target_id not in (None, request.recipe.reference_id)
        target = references.get(str(request.recipe.target_id), 16, masks=False).image
        assert np.abs(image.mean((0, 1)) - target.mean((0, 1))).max() < 6  # after clipping


def test_latent_pairs_are_drawn_too(tmp_path: Path, references: References) -> None:
    model = tiny_pairs(tmp_path / "latent", latent=True)
    engine = Engine(model, references=references)
    for options in ({}, INPAINT, {"start": "reference", "skip_timesteps": 1}):
        drawn = engine.draw(plan_of(model, references, options).batch(0))
        assert drawn.images.shape == (4, 16, 16, 3)
        assert drawn.masks is not None


def test_folded_pairs_of_three_classes_are_drawn_with_a_condition(tmp_path: Path) -> None:
    model = tiny_pairs(
        tmp_path / "three",
        fold=2,
        sample_size=8,
        mask_values=(0, 128, 255),
        labels=("lymphocyte", "monocyte"),
        condition="class",
        manifest={"class_names": ["lymphocyte", "monocyte"]},
    )
    engine = Engine(model)
    batch = plan_of(model, guidance_scale=2).batch(0)
    assert {request.recipe.class_name for request in batch.requests} == {"lymphocyte", "monocyte"}
    drawn = engine.draw(batch)
    assert set(np.unique(drawn.masks)) <= {0, 1, 2}
    lone = {
        name: engine.draw(
            replace(
                batch,
                requests=tuple(
                    replace(r, recipe=replace(r.recipe, class_name=name)) for r in batch.requests
                ),
            )
        ).images
        for name in model.class_names
    }
    assert not np.array_equal(lone["lymphocyte"], lone["monocyte"])


def test_clusters_are_drawn_in_proportion_and_recorded(tmp_path: Path) -> None:
    members = {"0": ["a"], "1": ["b", "c"], "4": ["d"]}
    model = tiny_pairs(
        tmp_path / "clusters",
        labels=("0", "1", "4"),
        condition="cluster",
        manifest={"clusters": {"members": members}},
    )
    plan = plan_of(model, num_images=8)
    assert {q.recipe.cluster_id: q.count for q in plan.quotas} == {0: 2, 1: 4, 4: 2}
    engine = Engine(model)
    batch = plan.batch(0)
    assert len({r.recipe.cluster_id for r in batch.requests}) > 1  # clusters share a batch
    assert engine.draw(batch).images.shape[0] == 4
    strange = replace(batch.requests[0], recipe=replace(batch.requests[0].recipe, cluster_id=9))
    with pytest.raises(ConfigError, match="cluster 9 is unknown"):
        engine.draw(Batch(index=0, size=4, requests=(strange,)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({**INPAINT, "skip_timesteps": 3}, "inpainting begins with noise"),
        ({"skip_timesteps": 3}, "needs start: reference or grey"),
        ({"start": "reference", "skip_timesteps": 4}, "skip_timesteps 4 of 4 steps"),
        ({"target": "random"}, "neither style nor match_colours"),
        ({"mask": {"threshold": 1.5}}, "options: mask.threshold"),
        ({"match_colours": True, "target": "nearest"}, "needs features"),
    ],
)
def test_options_that_contradict_are_refused(
    model: Generator, references: References, options: object, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of(model, references, options)


def test_an_empty_mask_cannot_be_inpainted(model: Generator, tmp_path: Path) -> None:
    data, split = write_pairs(tmp_path)
    for path in (tmp_path / "data" / "masks").rglob("*.png"):
        path.write_bytes(encode_png(np.zeros((16, 16), np.uint8)))
    made = replace(load_split(Path(split)), dataset=open_dataset(data).fingerprint)
    made.save(Path(split))
    with pytest.raises(DataError, match="is empty: there is nothing to inpaint"):
        plan_of(model, open_references(data, split), INPAINT)


def test_a_mask_of_unknown_values_is_refused(model: Generator, tmp_path: Path) -> None:
    references = open_references(*write_pairs(tmp_path, values=(0, 100)))
    with pytest.raises(DataError, match="holds the value 100"):
        plan_of(model, references, INPAINT)


def test_a_generator_without_a_condition_takes_no_guidance(model: Generator) -> None:
    with pytest.raises(ConfigError, match="Set guidance_scale: 1"):
        plan_of(model, guidance_scale=2)
    of_preset = GenerateConfig(num_images=1, guidance_scale=2.0)
    assert with_defaults(of_preset, model).guidance_scale == 1


def test_values_are_kept_within_bounds_in_pixel_form(
    engine: Engine, model: Generator, references: References
) -> None:
    engine.draw(plan_of(model).batch(0))
    method = engine._drawers["pairs"]
    assert isinstance(method, PairsMethod)
    requests = plan_of(model).batch(0).requests
    for clip, least in ((True, 0.0), (False, 1.0)):
        sampling = method._sampling(requests, PairsOptions(clip=clip))
        with torch.no_grad():
            sample = 30 * sampling.noise
            prediction = sampling.predict(sample, 1)
            alpha = sampling.levels.alphas_cumprod[1]
            clean = alpha.sqrt() * sample - (1 - alpha).sqrt() * prediction
        assert float(clean.abs().max()) >= least
        assert (float(clean.abs().max()) <= 1.001) == clip
