"""Real images that a method is shown: of the train part, as they were when the run was planned."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog import record_run
from factory.errors import ConfigError, DataError
from factory.models.generator import Generator
from factory.real.images import encode_png
from factory.real.pixels import pixel_sha256
from factory.real.sources import open_dataset
from factory.real.splits import Split
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.method import MethodOptions, method_of
from factory.sample.plan import Batch
from factory.sample.prepare import make_plan, prepare, prepare_resume, with_first_prompts
from factory.sample.quotas import PromptTurns, counts_by_reference
from factory.sample.recipe import Request
from factory.sample.references import (
    References,
    check_generator,
    open_references,
)
from tests.fakes.pairs import write_pairs
from tests.fakes.rows import run_row


class Shown(MethodOptions):
    strength: float = 0.5

    @property
    def shows_references(self) -> bool:
        return True

    @property
    def reads_masks(self) -> bool:
        return True


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A folder of 8 images with masks, two classes, and its split file."""
    return write_pairs(tmp_path_factory.mktemp("real"), classes=("lymphocyte", "monocyte"))


@pytest.fixture
def showing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(method_of("text")), "options", Shown)


def job(tiny: Generator, real: tuple[str, str], **changes: object) -> GenerateConfig:
    known = {
        "model": str(tiny.folder),
        "num_images": 6,
        "classes": {"lymphocyte": "l", "monocyte": "m"},
        "data": real[0],
        "split": real[1],
        "images_per_reference": 2,
        "seed": 3,
        "batch_size": 4,
        "num_inference_steps": 2,
    }
    return GenerateConfig.model_validate(known | changes)


def test_references_serve_in_turn_and_from_the_first_again() -> None:
    assert counts_by_reference("abc", 4, 2) == {"a": 2, "b": 2}
    assert counts_by_reference("abc", 8, 2) == {"a": 4, "b": 2, "c": 2}
    assert counts_by_reference("abc", 5, 3) == {"a": 3, "b": 2}
    with pytest.raises(ConfigError, match="no reference"):
        counts_by_reference("", 1, 1)


def test_prompts_of_a_class_take_turns_from_reference_to_reference() -> None:
    turns = PromptTurns({"a": ("x", "y", "z"), "b": "w"})
    assert turns.take("a", 1) == {"x": 1}
    assert turns.take("b", 4) == {"w": 4}
    assert turns.take("a", 4) == {"x": 1, "y": 2, "z": 1}
    assert turns.take("a", 10**9) == {"x": 333333333, "y": 333333333, "z": 333333334}
    assert turns.take("a", 2) == {"x": 1, "y": 1}
    with pytest.raises(ConfigError, match="has the prompt 'x' twice"):
        PromptTurns({"a": ("x", "x")}).take("a", 1)


@pytest.mark.usefixtures("showing")
def test_all_prompts_of_a_class_are_used_evenly_and_one_prompt_gives_what_it_gave(
    tiny: Generator, real: tuple[str, str]
) -> None:
    references = open_references(*real)
    several = job(tiny, real, num_images=12, classes={"lymphocyte": ["k", "l"], "monocyte": "m"})
    found = Counter[str]()
    for quota in make_plan(several, tiny, references).quotas:
        found[quota.recipe.prompt] += quota.count
    assert found["k"] + found["l"] + found["m"] == 12
    assert abs(found["k"] - found["l"]) <= 1
    one = make_plan(job(tiny, real, num_images=12), tiny, references)
    listed = job(tiny, real, num_images=12, classes={"lymphocyte": ["l"], "monocyte": ["m"]})
    assert make_plan(listed, tiny, references) == one
    assert [(q.recipe.prompt, q.count) for q in one.quotas] == [
        (label_of(references, q.recipe.reference_id)[0], q.count) for q in one.quotas
    ]
    assert len({quota.recipe.reference_id for quota in one.quotas}) == len(one.quotas)


def label_of(references: References, image_id: str | None) -> str:
    return references.dataset.labels[references.dataset.index_of(str(image_id))]


@pytest.mark.usefixtures("showing")
def test_a_run_of_before_that_used_first_prompts_alone_can_go_on(
    tiny: Generator, real: tuple[str, str], tmp_path: Path
) -> None:
    several = job(tiny, real, classes={"lymphocyte": ["l", "other"], "monocyte": "m"})
    before = prepare(with_first_prompts(several), str(tmp_path))
    assert prepare(several, str(tmp_path)).run_id != before.run_id
    record_run(tmp_path, run_row(before.run_id, config=several.model_dump_json()))
    assert prepare_resume(before.run_id, str(tmp_path)).plan == before.plan


@pytest.mark.usefixtures("showing")
def test_a_run_names_its_references_and_their_pixels(
    tiny: Generator, real: tuple[str, str]
) -> None:
    references = open_references(*real)
    plan = make_plan(job(tiny, real), tiny, references)
    assert {q.recipe.reference_id: q.count for q in plan.quotas} == dict.fromkeys(
        references.ids[:3], 2
    )
    recipe = plan.quotas[0].recipe
    number = references.dataset.index_of(str(recipe.reference_id))
    image, mask = references.dataset.image(number), references.dataset.mask(number)
    assert image.shape == (16, 16, 3)  # as it is drawn: nothing was cut off
    assert recipe.reference_sha256 == pixel_sha256(image, mask)
    assert recipe.class_name == references.dataset.labels[number]
    assert recipe.options == '{"strength":0.5}'
    assert plan.num_batches == 2  # references share a batch


@pytest.mark.usefixtures("showing")
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_reference_that_is_held_back_is_refused_by_name(
    tiny: Generator, real: tuple[str, str], part: str
) -> None:
    references = open_references(*real)
    held_back = getattr(references.split, part)[0]
    with pytest.raises(DataError, match=f"{held_back}: no image of the train part"):
        make_plan(job(tiny, real, references=(held_back,)), tiny, references)
    with pytest.raises(DataError, match=held_back):
        references.get(held_back, 16, masks=False)


@pytest.mark.usefixtures("showing")
def test_what_shows_references_needs_data_and_a_split(
    tiny: Generator, real: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError, match="Set data:"):
        make_plan(job(tiny, real), tiny)
    with pytest.raises(ConfigError, match="Set split:"):
        prepare(job(tiny, real, split=None), "unused")
    with pytest.raises(ConfigError, match="unknown key 'strenght'"):
        make_plan(job(tiny, real, options={"strenght": 1}), tiny, open_references(*real))


def test_a_method_without_options_takes_none(tiny: Generator, real: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="'text' has no options, 'strength'"):
        make_plan(job(tiny, real, options={"strength": 1}), tiny)


def test_a_split_of_another_training_is_refused(tiny: Generator, real: tuple[str, str]) -> None:
    references = open_references(*real)
    assert references.split is not None
    manifest = {"dataset_fingerprint": references.split.dataset, "split_digest": "another"}
    with pytest.raises(DataError, match="trained under split another"):
        check_generator(references, replace(tiny, manifest=manifest))
    check_generator(references, replace(tiny, manifest=manifest | {"dataset_fingerprint": "b"}))


@pytest.mark.usefixtures("showing")
def test_a_reference_with_other_pixels_is_not_shown(tiny: Generator, real: tuple[str, str]) -> None:
    references = open_references(*real)
    recipe = make_plan(job(tiny, real), tiny, references).quotas[0].recipe
    other = replace(recipe, reference_sha256=pixel_sha256(np.zeros((16, 16, 3), np.uint8)))
    batch = Batch(index=0, size=4, requests=(Request(recipe=other, index=0),))
    with pytest.raises(DataError, match="other pixels than the recipe"):
        Engine(tiny, references=references).draw(batch)
    with pytest.raises(ConfigError, match="no data is at hand"):
        Engine(tiny).draw(batch)


@pytest.mark.usefixtures("showing")
def test_workers_get_the_shown_references_alone(tiny: Generator, real: tuple[str, str]) -> None:
    run = prepare(job(tiny, real), "unused")
    assert run.references is not None
    shown = {quota.recipe.reference_id for quota in run.plan.quotas}
    assert set(run.references.ids) == shown
    assert len(shown) == 3


def test_a_reference_without_the_mask_it_needs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(encode_png(np.zeros((16, 16, 3), np.uint8)))

    dataset = open_dataset(tmp_path)
    split = Split(dataset=dataset.fingerprint, seed=0, train=dataset.ids, val=(), test=())
    with pytest.raises(DataError, match="has no mask"):
        References(dataset=dataset, split=split).get(dataset.ids[0], 16, masks=True)


def test_references_are_opened_as_they_were_split(tmp_path: Path) -> None:
    data, _ = write_pairs(tmp_path, count=8, values=(0, 3, 9))
    read_so = open_dataset(data, masks="object")
    split = Split(dataset=read_so.fingerprint, seed=0, train=read_so.ids, val=(), test=())
    split.save(tmp_path / "object.json")
    with pytest.raises(DataError, match=r"chosen again \(--group, --masks, or PATH\?group"):
        open_references(data, str(tmp_path / "object.json"))
    found = open_references(f"{data}?masks=object", str(tmp_path / "object.json"))
    assert found.dataset.mask_array(16).max() == 255
