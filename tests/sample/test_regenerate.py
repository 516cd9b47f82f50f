"""What `regenerate` says: identical, equal, or differs and why."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import SampleSink, write_batch
from factory.errors import ConfigError
from factory.real.pixels import pixel_sha256, psnr_db
from factory.sample.drawn import Drawn
from factory.sample.plan import Batch
from factory.sample.recipe import Recipe
from factory.sample.regenerate import _redraw, compare, regenerate_images, shapes
from factory.sample.rows import encode_png
from tests.fakes.rows import batch_rows, sample_row

ROOT = Path(__file__).parents[2]
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
RECIPE = Recipe(
    model_id="m",
    class_name="a",
    class_id=0,
    prompt="",
    guidance_scale=1,
    num_inference_steps=2,
    scheduler="ddim",
    height_px=16,
    width_px=16,
    seed=1,
    batch_size=8,
)
ENGINE = {"device": "cpu", "torch": "2.15.0"}


def row(image: np.ndarray = IMAGE) -> dict[str, object]:
    return {
        "image_id": "a",
        "pixel_sha256": pixel_sha256(IMAGE),
        "image": {"bytes": encode_png(image), "path": "a.png"},
        "engine": json.dumps(ENGINE),
    }


def test_equal_pixels_are_identical_whatever_the_engine() -> None:
    assert str(compare(row(), IMAGE, ENGINE | {"torch": "3"})) == "identical"


def test_nearly_equal_pixels_say_how_near_and_which_engine() -> None:
    near = IMAGE ^ np.uint8(1)
    outcome = compare(row(), near, ENGINE | {"torch": "2.16.0"})
    assert outcome.tier == 1
    assert str(outcome) == "equal within 48.1 dB (torch: 2.15.0 -> 2.16.0)"


def test_other_pixels_differ_because_of_the_engine() -> None:
    outcome = compare(row(), 255 - IMAGE, ENGINE | {"device": "cuda"})
    assert outcome.tier == 2
    assert "differs, because device: cpu -> cuda" in str(outcome)


def test_a_changed_published_image_is_noticed() -> None:
    outcome = compare(row(255 - IMAGE), 255 - IMAGE, ENGINE)
    assert outcome.tier == 2
    assert "changed after it was drawn" in str(outcome)


def test_a_published_image_that_is_none_is_told() -> None:
    broken = row() | {"image": {"bytes": b"no png", "path": "a.png"}}
    outcome = compare(broken, 255 - IMAGE, ENGINE)
    assert (outcome.tier, "cannot be decoded" in str(outcome)) == (2, True)


def test_a_mask_is_compared_with_its_image() -> None:
    mask = np.zeros((16, 16), np.uint8)
    other = mask.copy()
    other[0, :4] = 1
    published = row() | {
        "pixel_sha256": pixel_sha256(IMAGE, mask),
        "mask": {"bytes": encode_png(mask), "path": "a.mask.png"},
    }
    assert str(compare(published, IMAGE, ENGINE, mask=mask)) == "identical"
    outcome = compare(published, IMAGE, ENGINE | {"torch": "3"}, mask=other)
    assert outcome.tier == 2
    assert "torch: 2.15.0 -> 3; 98.44% of the mask agree" in str(outcome)
    assert compare(published, IMAGE, ENGINE).tier == 2  # no mask at all
    spoilt = published | {"mask": {"bytes": encode_png(other), "path": "a.mask.png"}}
    assert "changed after it was drawn" in str(compare(spoilt, IMAGE, ENGINE, mask=other))


def test_the_pixel_hash_knows_the_shape() -> None:
    assert pixel_sha256(IMAGE) != pixel_sha256(IMAGE.reshape(8, 32, 3))


def test_psnr_of_equal_images_is_infinite() -> None:
    assert psnr_db(IMAGE, IMAGE) == float("inf")
    assert psnr_db(IMAGE, IMAGE ^ np.uint8(1)) == pytest.approx(48.13, abs=0.01)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    place = str(tmp_path / "catalog")
    file = write_batch(place, run_id="run-1", batch_index=0, rows=batch_rows(0))
    SampleSink(place, "run-1").commit([file])
    return place


@pytest.mark.parametrize("sample", ["nan", "inf", "0", "-1", "2.7", "0%", "101%", "nan%", "some"])
def test_a_sample_that_is_no_number_of_images_is_refused(uri: str, sample: str) -> None:
    with pytest.raises(ConfigError, match=f"--sample '{sample}' is neither"):
        list(regenerate_images(uri, sample=sample))


def test_ids_and_a_sample_exclude_each_other(uri: str) -> None:
    with pytest.raises(ConfigError, match="Give one of them"):
        list(regenerate_images(uri, image_ids=["a"], sample="2"))


def test_mistakes_are_found_before_torch_is_loaded(uri: str) -> None:
    """A wrong id or folder must not cost the half minute that loading torch can take."""
    script = """
import sys
from pathlib import Path
from factory.errors import FactoryError
from factory.sample.regenerate import regenerate_images
uri, known = sys.argv[1:]
for wrong in (
    {"image_ids": ["nobody"]},
    {"sample": "99"},
    {"image_ids": [known], "out": Path(sys.executable) / "x"},
):
    try:
        list(regenerate_images(uri, **wrong))
    except FactoryError as error:
        print(type(error).__name__)
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", script, uri, str(sample_row(0)["image_id"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["CatalogError", "CatalogError", "OutputError", "False"]


@pytest.mark.parametrize(
    ("count", "size", "tried"),
    [(1, 32, [1, 4]), (2, 32, [2, 8]), (8, 32, [8]), (9, 32, []), (4, 4, [])],
)
def test_few_images_are_tried_in_small_batches(count: int, size: int, tried: list[int]) -> None:
    assert shapes(count, size) == tried


class Shaped:
    """An engine whose odd images come out otherwise in batches of fewer than 8."""

    fingerprint = ENGINE

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.sizes: list[int] = []
        self.threads: list[int] = []
        self.seated: list[list[int]] = []

    def draw(self, batch: Batch) -> Drawn:
        self.sizes.append(batch.size)
        self.threads.append(torch.get_num_threads())
        self.seated.append([request.index for request in batch.requests])
        images = np.stack([IMAGE] * len(batch.requests))
        for number, request in enumerate(batch.requests):
            images[number] += np.uint8(request.index % 2 and batch.size < 8)
        return Drawn(images=images)


def redrawn(shaped: Shaped, *indices: int, **changes: object) -> list[int]:
    recipe = json.dumps(asdict(RECIPE))
    rows = [
        row()
        | {"image_id": str(i), "recipe": recipe, "recipe_index": i, "batch_slot": i % 8}
        | changes
        for i in indices
    ]
    outcomes = list(_redraw(shaped, rows, 8, {}))
    assert [outcome.image_id for outcome in outcomes] == [str(i) for i in indices]
    return [outcome.tier for outcome in outcomes]


def test_an_image_that_comes_out_equal_in_a_small_batch_needs_no_large_one() -> None:
    engine = Shaped()
    assert redrawn(engine, 2) == [0]
    assert engine.sizes == [1]


def test_only_the_recorded_shape_says_that_an_image_differs() -> None:
    engine = Shaped()
    assert redrawn(engine, 2, 3) == [0, 0]
    assert engine.sizes == [2, 8]


@pytest.mark.parametrize(("told", "taken"), [("3", 3), (None, 1), ("-1", 1), ("9" * 30, 1)])
def test_a_cpu_redraws_in_as_many_threads_as_drew(told: str | None, taken: int) -> None:
    engine, before = Shaped(), torch.get_num_threads()
    assert redrawn(engine, 3, engine=json.dumps(ENGINE | ({"threads": told} if told else {}))) == [
        0
    ]
    assert list(zip(engine.sizes, engine.threads, strict=True)) == [(1, 1), (8, taken)]
    assert torch.get_num_threads() == before


def test_another_engine_draws_in_the_recorded_shape_at_once() -> None:
    engine = Shaped()
    assert redrawn(engine, 2, engine=json.dumps(ENGINE | {"torch": "1"})) == [0]
    assert engine.sizes == [8]


def test_on_a_gpu_every_image_is_drawn_in_its_own_slot_of_a_whole_batch() -> None:
    engine = Shaped("cuda")
    assert redrawn(engine, 10, 2, 5) == [0, 0, 0]
    assert engine.sizes == [8, 8]
    first, second = engine.seated
    assert (first[2], first[5], second[2]) == (10, 5, 2)
    assert len(first) == len(second) == 8
