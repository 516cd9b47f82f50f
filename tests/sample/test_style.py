"""Style guidance: its terms by formula, where it leads, what it costs when a weight is 0."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factory.errors import FactoryError, ModelError
from factory.methods.pairs import draw as pairs
from factory.methods.pairs import style as terms
from factory.methods.pairs.options import Style
from factory.methods.pairs.style import Lead, Terms
from factory.models import extractors
from factory.models.extractors import load_extractor
from factory.models.generator import Generator
from factory.models.pair_codec import PairCodec
from factory.sample.config import GenerateConfig
from factory.sample.drawn import Drawn
from factory.sample.engine import Engine
from factory.sample.plan import Plan
from factory.sample.prepare import make_plan
from factory.sample.references import References, open_references
from tests.fakes.extractors import install
from tests.fakes.pair_generator import tiny_pair_unet, tiny_pairs
from tests.fakes.pairs import write_pairs

ALL = {
    "feature": 2,
    "direction": 1,
    "patch": 0.1,
    "perceptual": 1,
    "target": 1,
    "source": 1,
    "range": 1,
}
TINY = {"extractor": "tiny", "perceptual_extractor": "tiny_maps", "until": 0, "skip_timesteps": 2}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def weights(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extractors")
    install(patch, folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_pairs(tmp_path_factory.mktemp("models") / "pairs")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return open_references(*write_pairs(tmp_path_factory.mktemp("real")))


@pytest.fixture(scope="module")
def engine(model: Generator, references: References) -> Engine:
    return Engine(model, references=references)


@pytest.fixture
def plan_of(model: Generator, references: References, weights: Path) -> Callable[..., Plan]:
    def plan(style: object, **changes: object) -> Plan:
        known: dict[str, object] = {"num_images": 3, "num_inference_steps": 6, "batch_size": 3}
        known |= {"guidance_scale": 1, "scheduler": "ddim", "seed": 1}
        known["options"] = {"style": style}
        return make_plan(GenerateConfig.model_validate(known | changes), model, references)

    return plan


@pytest.fixture
def draw(engine: Engine, plan_of: Callable[..., Plan]) -> Callable[..., Drawn]:
    return lambda style, **changes: engine.draw(plan_of(TINY | style, **changes).batch(0))


def losses_of(drawn: Drawn) -> list[dict[str, dict[str, float]]]:
    return [json.loads(text) for text in drawn.columns["guidance_terms"]]


def test_noise_mix_is_the_formula() -> None:
    clean, noisy, alpha = torch.randn(2, 3), torch.randn(2, 3), torch.tensor(0.36)
    assert torch.allclose(terms.noise_mixed(clean, noisy, alpha), 0.8 * clean + 0.2 * noisy)


def test_the_range_term_sees_the_excess_alone() -> None:
    values = torch.tensor([[0.5, -1.0], [2.0, -1.5]])
    assert terms.beyond(values).tolist() == [0, (1 + 0.25) / 2]


def test_patches_find_their_own_place_and_no_other() -> None:
    maps = torch.randn(3, 8, 5, 5, generator=torch.Generator().manual_seed(0))

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    own = terms.patch_contrast([maps], [maps], generators())
    moved = terms.patch_contrast([maps], [maps.roll(1, 3)], generators())
    assert (own < 0.1).all()
    assert (moved > own + 1).all()
    alone = terms.patch_contrast([maps[1:2]], [maps.roll(1, 3)[1:2]], generators()[1:2])
    assert torch.equal(alone, moved[1:2])


def lead_of(weights: Path, style: Style, rows: slice = slice(None)) -> Lead:
    drawn = torch.Generator().manual_seed(5)
    source = torch.randn(3, 4, 16, 16, generator=drawn)[rows]
    target = torch.rand(3, 3, 16, 16, generator=drawn)[rows]
    unet = tiny_pair_unet().requires_grad_(False)
    return Lead(
        style=style,
        codec=PairCodec(num_classes=2),
        encode=unet.features,
        extractors={
            name: load_extractor(name, weights / f"{name}.safetensors", device="cpu")
            for name in style.extractors
        },
        source=source,
        target=target,
        generators=[torch.Generator().manual_seed(seed) for seed in range(3)[rows]],
    )


@pytest.mark.parametrize("term", [name for name in ALL if name != "direction"])
def test_every_term_falls_along_its_gradient_image_by_image(weights: Path, term: str) -> None:
    style = Style.model_validate(TINY | {term: 1.0, "noise_mix": "none"})
    start = 1.5 * torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(6))

    def losses(clean: torch.Tensor, rows: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        made = Terms(lead=lead_of(weights, style, rows))
        leaf = clean.clone().requires_grad_()
        total = made.total(leaf, leaf, 0, torch.tensor(0.5))
        return made.told[-1][term], torch.autograd.grad(total, leaf)[0]

    before, gradient = losses(start)
    after, _ = losses(start - 0.5 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None])
    assert (after < before).all()
    _, alone = losses(start[1:2], slice(1, 2))
    assert torch.allclose(alone, gradient[1:2], atol=1e-7)


@pytest.mark.parametrize("gradient", ["network", "x0"])
def test_pairs_are_led_to_the_target(draw: Callable[..., Drawn], gradient: str) -> None:
    free, led = (
        losses_of(draw({"feature": weight, "gradient": gradient, "noise_mix": "none"}))
        for weight in (1e-6, 1.0)  # a large one overshoots in a network that has learnt nothing
    )
    before = np.mean([one["feature"]["last"] for one in free])
    assert np.mean([one["feature"]["last"] for one in led]) < 0.97 * before


def test_a_zero_weight_is_not_computed(
    draw: Callable[..., Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name in ("squared_all", "beyond", "patch_contrast"):
        real = getattr(terms, name)
        monkeypatch.setattr(
            terms, name, lambda *args, n=name, r=real: (seen.append(n), r(*args))[1]
        )
    monkeypatch.setattr(pairs, "load_extractor", lambda *_, **__: seen.append("loaded"))
    draw({"range": 1.0, "extractor": "not needed", "perceptual_extractor": "neither"})
    assert seen == ["beyond"] * 4  # 6 levels, 2 skipped


def test_moving_on_counts_only_above_its_level(draw: Callable[..., Drawn]) -> None:
    told = losses_of(draw({"direction": 1.0, "feature": 1.0, "until": 1}))[0]
    assert told["direction"]["first"] == told["direction"]["last"]  # of levels 3 .. 0 the second
    assert set(losses_of(draw({"direction": 1.0, "feature": 1.0, "until": 2}))[0]) == {"feature"}


@pytest.mark.parametrize("mix", ["patch", "all"])
def test_all_terms_together_draw_each_image_by_its_own_seed(
    engine: Engine, plan_of: Callable[..., Plan], mix: str
) -> None:
    batch = plan_of(TINY | ALL | {"noise_mix": mix, "num_inference_steps": 5}).batch(0)
    drawn = engine.draw(batch)
    turned = engine.draw(replace(batch, requests=batch.requests[::-1]))
    alone = engine.draw(replace(batch, requests=batch.requests[1:2]))
    assert np.array_equal(drawn.images, turned.images[::-1])
    assert np.array_equal(drawn.images[1], alone.images[0])
    assert set(losses_of(drawn)[0]) == set(ALL)
    recorded = json.loads(batch.requests[0].recipe.options or "")["style"]["extractor_digests"]
    assert set(recorded) == {"tiny", "tiny_maps"}


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        ({}, "every weight is 0"),
        ({"feature": -1}, "style.feature"),
        ({"feature": 1, "extractor": "inception"}, "no extractor of vector is called 'inception'"),
        ({"perceptual": 1, "perceptual_extractor": "tiny"}, "no extractor of maps"),
        ({"feature": 1, "extractor": "dino_vitb8"}, r"dino_vitb8.*vit_base_patch8_224\.dino"),
        ({"target": 1, "skip_timesteps": 6}, "skip_timesteps 6 of 6 steps"),
    ],
)
def test_what_cannot_lead_is_refused_by_name(
    plan_of: Callable[..., Plan], style: object, reason: str
) -> None:
    with pytest.raises(FactoryError, match=reason):
        plan_of(style)


def test_other_weights_than_the_recipes_are_refused(
    model: Generator,
    references: References,
    plan_of: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = plan_of(TINY | {"feature": 1}).batch(0)
    install(monkeypatch, tmp_path, seed=9)
    with pytest.raises(ModelError, match=r"'tiny' has weights .* the recipe .*FACTORY_EXTRACTORS"):
        Engine(model, references=references).draw(batch)


@pytest.mark.parametrize(
    ("name", "rows"), [("squeezenet1_0", [96, 128]), ("efficientnet_lite0", [1280])]
)
def test_a_real_extractor_is_read_from_its_file_and_differentiable(
    tmp_path: Path, name: str, rows: list[int]
) -> None:
    path = tmp_path / f"{name}.safetensors"
    state = extractors.KINDS[name].build().network.state_dict()
    save_file(state | {"head.weight": torch.zeros(2)}, path)
    extractor = extractors.load_extractor(name, path, device="cpu")
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    found = extractor.outputs(images)
    assert [each.shape[1] for each in found] == rows
    (gradient,) = torch.autograd.grad(found[0].sum(), images)
    assert float(gradient.abs().max()) > 0
    save_file({"head.weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="does not hold"):
        extractors.load_extractor(name, path, device="cpu")


def test_resizing_is_bilinear() -> None:
    images = torch.rand(1, 3, 8, 8)
    wanted = torch.nn.functional.interpolate(images, (24, 24), mode="bilinear")
    assert torch.allclose(extractors.resized(images, 24), wanted, atol=1e-6)
