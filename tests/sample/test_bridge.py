"""The bridge: both ways, many depths from one inversion, the same bits however it is batched."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.config import load_config
from factory.errors import ConfigError, DataError, ModelError
from factory.methods.bridge.inversion import evaluations_of
from factory.methods.bridge.plan import BridgeOptions
from factory.models.config import ExpertSpec
from factory.models.domains import domains_of, write_domains
from factory.models.expert_file import save_expert
from factory.models.experts import build_expert
from factory.models.generator import Generator
from factory.real.pixels import psnr_db
from factory.sample.config import GenerateConfig
from factory.sample.drawn import Drawn
from factory.sample.engine import Engine
from factory.sample.levels import even_levels
from factory.sample.method import parse_options
from factory.sample.plan import Batch, Plan
from factory.sample.prepare import make_plan
from factory.sample.recipe import Request, recipe_from
from factory.sample.references import References, open_references
from factory.sample.rows import RunFacts, batch_rows
from tests.fakes.bridge import lora_per_class, tiny_bridge
from tests.fakes.pairs import write_pairs

NAMES = ("lymphocyte", "monocyte")
DEPTHS, STEPS = 3, 6


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pairs(tmp_path_factory.mktemp("real"), classes=NAMES)


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_bridge(tmp_path_factory.mktemp("bridge"), NAMES)


@pytest.fixture(scope="module")
def references(real: tuple[str, str]) -> References:
    return open_references(*real)


def job(generator: Generator, **changes: object) -> GenerateConfig:
    options = {"depths": DEPTHS, "policy": "uniform", "soft_label": "depth"}
    known = {
        "model": str(generator.folder),
        "method": "bridge",
        "num_images": 4 * DEPTHS,
        "classes": {name: f"a {name}" for name in NAMES},
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "scheduler": "ddim",
        "batch_size": 2 * DEPTHS,
        "seed": 3,
        "options": options | dict(changes.pop("options", {})),
    }
    return GenerateConfig.model_validate(known | changes)


def planned(generator: Generator, references: References | None, **changes: object) -> Plan:
    return make_plan(job(generator, **changes), generator, references)


def drawn(engine: Engine, plan: Plan) -> list[tuple[Batch, Drawn]]:
    return [(batch, engine.draw(batch)) for batch in plan.batches()]


def facts(found: Drawn, number: int = 0) -> dict[str, object]:
    return json.loads(found.columns["guidance_terms"][number])


def pixels(found: Sequence[tuple[Batch, Drawn]]) -> dict[str, bytes]:
    return {
        request.image_id: image.tobytes()
        for batch, each in found
        for request, image in zip(batch.requests, each.images, strict=True)
    }


@pytest.fixture(scope="module")
def engine(bridge: Generator, references: References) -> Engine:
    return Engine(bridge, references=references)


def test_a_plan_has_both_directions_in_turn_and_a_source_in_one_batch(
    bridge: Generator, references: References
):
    plan = planned(bridge, references)
    assert plan.num_images == 12
    directions = {
        (json.loads(q.recipe.options)["pairs"][0][0], q.recipe.class_name) for q in plan.quotas
    }
    assert directions == {NAMES, NAMES[::-1]}
    assert {q.count for q in plan.quotas} == {DEPTHS}
    for batch in plan.batches():
        names = [request.recipe.reference_id for request in batch.requests]
        assert all(names.count(name) == DEPTHS for name in names)
    for quota in plan.quotas:
        label = references.dataset.labels[references.dataset.index_of(quota.recipe.reference_id)]
        assert label != quota.recipe.class_name
        assert json.loads(quota.recipe.options)["source_prompt"] == f"a {label}"
        assert quota.recipe.prompt == f"a {quota.recipe.class_name}"


def test_rows_tell_the_whole_way(bridge: Generator, references: References, engine: Engine):
    batch, found = drawn(engine, planned(bridge, references))[0]
    told = RunFacts(
        run_id="run-0",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        code_version="0",
        class_names=bridge.class_names,
        gates=(job(bridge).gates,),
    )
    rows = batch_rows(batch, found, told).to_pylist()
    for row, request in zip(rows, batch.requests, strict=True):
        k = request.index + 1
        target = NAMES.index(request.recipe.class_name)
        assert row["soft_label"][target] == pytest.approx(k / DEPTHS)
        assert sum(row["soft_label"]) == pytest.approx(1)
        assert row["bridge_depth"] == pytest.approx(k / DEPTHS)
        assert row["reference_ids"] == [request.recipe.reference_id]
        assert row["model_id"] == bridge.model_id
        noted = json.loads(row["guidance_terms"])
        assert noted["source"] == NAMES[1 - target]
        assert noted["depth"] == 2 * k
        assert noted["evaluations"] == STEPS + 2 + 4 + 6
        assert 0 <= noted["feature"] <= 1
        assert -1 <= noted["ssim_to_source"] < 1


def test_an_image_is_the_same_alone_and_in_any_company(
    bridge: Generator, references: References, engine: Engine
):
    plan = planned(bridge, references, options={"policy": "adaptive"})
    together = pixels(drawn(engine, plan))
    fresh = Engine(bridge, references=references)
    for batch in plan.batches():
        for request in batch.requests[::-2]:
            alone = Batch(index=0, size=batch.size, requests=(request,))
            assert fresh.draw(alone).images[0].tobytes() == together[request.image_id]


def test_a_recipe_read_back_from_its_row_draws_the_same(
    bridge: Generator, references: References, engine: Engine
):
    batch, found = drawn(engine, planned(bridge, references))[0]
    again = [
        Request(recipe=recipe_from(json.dumps(r.recipe.to_dict())), index=r.index)
        for r in batch.requests
    ]
    assert [r.image_id for r in again] == [r.image_id for r in batch.requests]
    redrawn = engine.draw(replace(batch, requests=tuple(again)))
    assert redrawn.images.tobytes() == found.images.tobytes()


def counting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Rows of every forward of each bound generator's network."""
    seen: dict[str, list[int]] = {}
    for bound in engine._bound.values():
        rows = seen.setdefault(bound.generator.class_names[0], [])
        forward = bound._pipeline.unet.forward

        def counted(sample: torch.Tensor, *args: object, _f=forward, _r=rows, **kwargs: object):
            _r.append(len(sample))
            return _f(sample, *args, **kwargs)

        monkeypatch.setattr(bound._pipeline.unet, "forward", counted)
    return seen


def test_one_inversion_serves_the_feature_and_all_depths_and_the_target_does_the_rest(
    bridge: Generator, references: References, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(
        bridge, references, num_images=2 * DEPTHS, options={"pairs": [NAMES], "slots": 3}
    )
    seen = counting(engine, monkeypatch)
    engine.draw(plan.batch(0))
    assert seen["lymphocyte"] == [2] * STEPS  # two sources, one pass
    depths = [2, 4, 6] * 2
    assert len(seen["monocyte"]) == -(-sum(depths) // 3)  # no slot was ever empty
    assert set(seen["monocyte"]) == {3}


def test_guidance_asks_the_target_twice_and_the_source_once(
    bridge: Generator, references: References, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    seen = counting(engine, monkeypatch)
    plan = planned(
        bridge,
        references,
        num_images=DEPTHS,
        guidance_scale=2.0,
        options={"pairs": [NAMES], "slots": 3},
    )
    found = engine.draw(plan.batch(0))
    assert seen["lymphocyte"] == [2] * STEPS
    assert set(seen["monocyte"]) == {6}
    assert facts(found)["evaluations"] == STEPS + 2 * (2 + 4 + 6)


@pytest.mark.slow
def test_a_bridge_back_into_its_own_class_brings_the_source_back(
    tiny: Generator, references: References, tmp_path: Path
):
    """One generator under two names: full depth is a round trip."""
    folder = str(tiny.folder)
    same = write_domains(
        tmp_path / "b", {"lymphocyte": (folder, "monocyte"), "monocyte": (folder, "monocyte")}
    )
    engine = Engine(same, references=references)
    plan = planned(
        same,
        references,
        num_images=DEPTHS,
        num_inference_steps=100,
        classes=dict.fromkeys(NAMES, "a monocyte"),
        options={"pairs": [NAMES], "min_psnr_db": 30.0, "corrections": 1},
    )
    batch = plan.batch(0)
    found = engine.draw(batch)
    verdict = found.verdicts_of(0)[0]
    assert verdict.gate == "inversion"
    assert verdict.passed
    assert verdict.score is None  # told in guidance_terms
    assert facts(found)["inversion_psnr_db"] > 30
    source = references.get(str(batch.requests[0].recipe.reference_id), 16, masks=False).image
    method = engine._bound[tiny.model_id].guided("monocyte")
    with torch.inference_mode():
        shown = torch.tensor(source).permute(2, 0, 1)[None].float() / 127.5 - 1
        kept = method.decode(method.encode(shown))[0].clamp(-1, 1)
    kept = ((kept + 1) * 127.5).round().permute(1, 2, 0).byte().numpy()
    for image in found.images:
        assert psnr_db(image, kept) > 29


def test_a_source_that_does_not_come_back_is_rejected_with_the_reason(
    bridge: Generator, references: References, engine: Engine
):
    plan = planned(bridge, references, num_inference_steps=3, options={"min_psnr_db": 99.0})
    found = engine.draw(plan.batch(0))
    for number in range(len(found)):
        (verdict,) = found.verdicts_of(number)
        assert "comes back from its noise at" in verdict.reason
        assert "99 are wanted" in verdict.reason
    assert facts(found)["evaluations"] == 3 + (1 + 2 + 3) + 3


@pytest.mark.parametrize("measure", ["centre_row", "radial"])
def test_adaptive_depths_differ_between_sources_and_labels_follow_the_feature(
    bridge: Generator, references: References, engine: Engine, measure: str
):
    plan = planned(
        bridge,
        references,
        num_inference_steps=30,
        options={"policy": "adaptive", "measure": measure, "soft_label": "feature"},
    )
    by_source: dict[str, list[tuple[int, float]]] = {}
    for batch, found in drawn(engine, plan):
        for number, request in enumerate(batch.requests):
            weight = found.columns["soft_label"][number][NAMES.index(request.recipe.class_name)]
            by_source.setdefault(str(request.recipe.reference_id), []).append(
                (int(facts(found, number)["depth"]), weight)
            )
    assert len({tuple(rows) for rows in by_source.values()}) > 1
    for rows in by_source.values():
        depths, weights = zip(*sorted(rows), strict=True)
        assert len(set(depths)) == DEPTHS
        assert list(weights) == sorted(weights)
        assert weights[-1] == pytest.approx(1)
        assert all(w >= k / DEPTHS - 1e-6 for k, w in enumerate(weights, 1))


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = build_expert(ExpertSpec(backbone="resnet10t", class_names=NAMES, size_px=16), seed=3)
    folder = tmp_path_factory.mktemp("expert") / "expert"
    save_expert(folder, made, val_accuracy=0.5, split_digest="0" * 32)
    return str(folder)


def test_an_expert_measures_and_labels(
    bridge: Generator, references: References, engine: Engine, expert: str
):
    options = {"measure": "expert", "soft_label": "expert", "policy": "adaptive", "expert": expert}
    plan = planned(bridge, references, options=options)
    assert json.loads(plan.quotas[0].recipe.options)["expert_id"]
    for batch, found in drawn(engine, plan):
        labels = np.array(found.columns["soft_label"])
        assert labels.sum(1) == pytest.approx(1)
        target = NAMES.index(batch.requests[0].recipe.class_name)
        for start in range(0, len(found), DEPTHS):
            assert (np.diff(labels[start : start + DEPTHS, target]) >= 0).all()
        assert len(set(labels[:, target].tolist())) > 1


def test_another_expert_than_the_recipes_is_refused(
    bridge: Generator, references: References, engine: Engine, expert: str
):
    plan = planned(bridge, references, options={"soft_label": "expert", "expert": expert})
    batch = plan.batch(0)
    changed = tuple(
        replace(
            r,
            recipe=replace(
                r.recipe, options=r.recipe.options.replace('"expert_id":"', '"expert_id":"0')
            ),
        )
        for r in batch.requests
    )
    with pytest.raises(ModelError, match="the recipe was made with 0"):
        Engine(bridge, references=references).draw(replace(batch, requests=changed))


def test_a_lora_per_class_is_a_bridge_too(tiny: Generator, references: References, tmp_path: Path):
    loras = lora_per_class(tmp_path / "loras", tiny, NAMES)
    plan = planned(loras, references, num_images=2 * DEPTHS, batch_size=DEPTHS)
    engine = Engine(loras, references=references)
    first = pixels(drawn(engine, plan))
    backwards = [plan.batch(i) for i in reversed(range(plan.num_batches))]
    again = pixels([(batch, engine.draw(batch)) for batch in backwards])
    assert again == first
    batch = plan.batch(0)
    plainly = Engine(tiny, references=references)
    base = tuple(
        replace(r, recipe=replace(r.recipe, model_id=tiny.model_id, adapter_id=None))
        for r in batch.requests
    )
    without = plainly.draw(replace(batch, requests=base)).images
    assert without.tobytes() != engine.draw(batch).images.tobytes()


def test_classes_of_one_generator_are_crossed(tiny: Generator, references: References):
    plan = planned(tiny, references, options={"pairs": [NAMES]}, num_images=DEPTHS)
    found = Engine(tiny, references=references).draw(plan.batch(0))
    assert len(found.columns["soft_label"][0]) == len(tiny.class_names)
    assert found.columns["soft_label"][-1] == [0, 1, 0]
    assert len({image.tobytes() for image in found.images}) == DEPTHS


def test_both_sides_read_one_table_of_levels(bridge: Generator, engine: Engine):
    a, b = (engine._side(domains_of(bridge)[name]).open() for name in NAMES)
    assert a.unet is not b.unet
    first, second = (even_levels(each.training_config, STEPS) for each in (a, b))
    assert torch.equal(first.alphas_cumprod, second.alphas_cumprod)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "dpmpp_2m"}, "Set scheduler: ddim"),
        ({"num_images": 10}, "num_images 10 is no multiple of the 3 depths"),
        ({"batch_size": 4}, "batch_size 4 is no multiple"),
        ({"num_images": 300}, "asks for 100 progressions, its data has 6 sources"),
        ({"images_per_reference": 2}, "images_per_reference 2"),
        ({"options": {"pairs": [["lymphocyte", "basophil"]]}}, "no domain 'basophil'"),
        ({"options": {"pairs": [["monocyte", "monocyte"]]}}, "leads to itself"),
        ({"options": {"labels": {"monocyte": ["mono"]}}}, r"domain 'monocyte' \(mono\)"),
        ({"options": {"soft_label": "expert"}}, "needs expert: FOLDER"),
        ({"options": {"policy": "deep"}}, "options: policy is 'deep'"),
        ({"options": {"away_from_source": True}}, "does nothing at guidance_scale 1"),
        ({"num_inference_steps": 2}, "3 depths do not fit into 2 inversion steps"),
        ({"options": {"labels": {"monocytes": ["monocyte"]}}}, "'monocytes' is no domain"),
    ],
)
def test_wrong_jobs_are_refused(
    bridge: Generator, references: References, changes: dict, message: str
):
    with pytest.raises(ConfigError, match=message):
        planned(bridge, references, **changes)


def test_no_data_and_held_back_sources_are_refused(bridge: Generator, references: References):
    with pytest.raises(ConfigError, match="Set data:"):
        planned(bridge, None)
    held_back = references.split.test[0]
    with pytest.raises(DataError, match="no image of the train part"):
        make_plan(job(bridge, references=(held_back,)), bridge, references)


def test_an_expert_labels_no_domain_that_it_does_not_know(
    references: References, bridge: Generator, tmp_path: Path
):
    made = build_expert(
        ExpertSpec(backbone="resnet10t", class_names=("a", "b"), size_px=16), seed=3
    )
    save_expert(tmp_path / "expert", made, val_accuracy=0.5, split_digest="0" * 32)
    options = {"soft_label": "expert", "expert": str(tmp_path / "expert")}
    with pytest.raises(ConfigError, match="knows no class 'lymphocyte'"):
        planned(bridge, references, options=options)
    measured = planned(
        bridge, references, options=options | {"measure": "expert", "soft_label": "depth"}
    )
    assert json.loads(measured.quotas[0].recipe.options)["expert_id"]


def test_a_bridge_may_be_guided_away_from_its_source(
    bridge: Generator, references: References, engine: Engine
):
    plan = planned(bridge, references, guidance_scale=2.0, options={"away_from_source": True})
    for quota in plan.quotas:
        assert quota.recipe.negative_prompt == json.loads(quota.recipe.options)["source_prompt"]
    plain = planned(bridge, references, guidance_scale=2.0)
    first, other = (engine.draw(each.batch(0)).images for each in (plan, plain))
    assert not np.array_equal(first, other)


def test_domains_that_a_job_names_no_prompt_for_have_their_own(
    bridge: Generator, references: References
):
    plan = planned(bridge, references, classes={"monocyte": "a round monocyte"})
    told = {(q.recipe.prompt, json.loads(q.recipe.options)["source_prompt"]) for q in plan.quotas}
    assert told == {("a round monocyte", "a lymphocyte"), ("a lymphocyte", "a round monocyte")}


def test_the_preset_is_a_bridge_of_ten_depths():
    config = load_config(GenerateConfig, "adbd")
    options = parse_options("bridge", config.options)
    assert isinstance(options, BridgeOptions)
    assert options.depths == 10
    assert config.scheduler == "ddim"
    assert config.num_images % 10 == config.batch_size % 10 == 0
    assert evaluations_of(config.num_inference_steps, range(10, 101, 10)) <= 7500 / 2
