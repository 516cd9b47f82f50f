"""How large objects look: measured without pixel sizes, and said where it differs."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw

from factory.real.field import Look, Shown, scale_line
from factory.real.scale import ObjectScale, Views, compare_scale, compare_with, object_scale, views

SIZE_PX, COUNT = 64, 16
RADII_PX = {"small": 8, "large": 14}


@cache
def cells(zoom: float, seed: int):
    """Images of two classes with paler cells around, which look `zoom` times as large."""
    random = np.random.default_rng(seed)
    labels = [name for name in RADII_PX for _ in range(COUNT)]
    return np.stack([cell(RADII_PX[name], zoom, random) for name in labels]), labels


def cell(radius_px: float, zoom: float, random: np.random.Generator) -> np.ndarray:
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), (235, 220, 205))
    pen = ImageDraw.Draw(image)

    def disc(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        x, y, radius = 32 + zoom * x, 32 + zoom * y, zoom * radius
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    for x, y in random.uniform(-45, 45, (14, 2)):
        if np.hypot(x, y) > radius_px + 10:
            disc(x, y, random.normal(9, 1), (215, 185, 175))
    x, y = random.normal(0, 1.5, 2)
    disc(x, y, radius_px * random.normal(1, 0.1), (160, 130, 190))
    disc(x + 1, y, radius_px * random.normal(0.6, 0.05), (90, 50, 130))
    return np.asarray(image)


@cache
def seen(zoom: float, seed: int) -> Views:
    return views(*cells(zoom, seed))


@pytest.mark.parametrize("zoom", [0.75, 1.0, 1.4])
def test_how_large_objects_look_is_found_without_any_pixel_size(zoom):
    one, other = seen(zoom, 1), seen(1.0, 2)
    found = compare_scale(one, other)
    assert found.ratio == pytest.approx(zoom, rel=0.08)
    assert found.low <= found.ratio <= found.high
    assert found.differs == (zoom != 1)
    assert compare_scale(other, one).ratio == pytest.approx(1 / found.ratio, rel=0.05)
    assert found.inverse.ratio == 1 / found.ratio
    kept = object_scale(other)
    assert compare_with(one, kept).ratio == pytest.approx(zoom, rel=0.08)
    assert ObjectScale.model_validate_json(kept.model_dump_json()) == kept
    assert len(kept.model_dump_json()) < 2500 * (len(kept.means) + 1)


def test_stain_and_brightness_are_no_scale():
    images, labels = cells(1.0, 2)
    bluer = np.clip(images[..., ::-1] * 0.8 + 20, 0, 255).astype(np.uint8)
    found = compare_scale(seen(1.0, 1), views(bluer, labels))
    assert not found.differs
    assert found.ratio == pytest.approx(1, abs=0.06)


def test_another_mix_of_classes_is_no_other_scale():
    """Small cells alone do not look like a smear that is zoomed out."""
    other = seen(1.0, 2)
    small = {"small": seen(1.0, 1)["small"]}
    assert not compare_scale(small, other).differs
    assert not compare_with(small, object_scale(other)).differs
    mixed = np.concatenate([other["small"], other["large"]], axis=1)
    assert compare_scale({"x": small["small"]}, {"x": mixed}).ratio < 0.9  # as it would look
    assert compare_scale({"another": small["small"]}, other) is None
    assert compare_with({"another": small["small"]}, object_scale(other)) is None


def test_few_images_of_each_class_are_compared_together_in_equal_numbers():
    few = {name: looks[:, :6] for name, looks in seen(1.4, 1).items()}
    assert compare_scale(few, seen(1.0, 2)).ratio == pytest.approx(1.4, rel=0.1)
    assert compare_scale({"small": few["small"]}, seen(1.0, 2)) is None


def test_pictures_without_objects_tell_no_scale():
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3)).astype(np.uint8)
    blank = np.full((10, 64, 64, 3), 200, np.uint8)
    one, other, white = (views(part, ["x"] * 10) for part in (noise[:10], noise[10:], blank))
    assert not compare_scale(one, other).differs
    assert not compare_scale(white, white).differs
    drawn = {"x": seen(1.0, 1)["small"]}
    for wrong in (one, white):  # something is wrong with them, and it is not their scale
        assert not compare_scale(wrong, drawn).differs


def test_figures_of_another_version_tell_nothing():
    kept = object_scale(seen(1.0, 2))
    short = kept.model_copy(update={"variances": kept.variances[:-1]})
    assert compare_with(seen(1.4, 1), short) is None
    with pytest.raises(ValueError, match="rows of several lengths"):
        ObjectScale(images=1, means={"x": ((1.0, 2.0), (1.0,))}, variances=((1.0, 2.0),))


def look(zoom: float, seed: int, name: str = "real images", **known) -> Look:
    return Look(name=name, objects=seen(zoom, seed), **known)


def offered(line: str) -> float:
    """The share that a line offers as `--crop`."""
    return float(line.partition("--crop ")[2].split()[0])


def test_another_scale_is_said_in_one_line_with_the_crop_that_mends_it():
    drawn = look(1.4, 1, "drawn images", crop="0.711")
    line = scale_line(look(1.0, 2), drawn)
    assert line.startswith("scale: objects look 1.")
    assert "in drawn images (the central 0.711 of their frames) as in real images" in line
    assert "beyond 1.1" in line
    assert "\n" not in line
    assert offered(line) == pytest.approx(1 / 1.4, abs=0.05)
    assert offered(scale_line(look(1.0, 2, crop="0.9"), drawn)) == pytest.approx(0.64, abs=0.05)
    assert scale_line(look(1.0, 2), look(1.0, 1, "drawn images")) is None


def test_what_a_generator_keeps_says_the_same_without_a_drawing():
    learnt = Shown(crop="0.711", objects=object_scale(seen(1.4, 1))).look("what mine learnt", 64)
    line = scale_line(look(1.0, 2), learnt)
    assert "in what mine learnt (the central 0.711 of their frames) as in real images" in line
    assert offered(line) == pytest.approx(1 / 1.4, abs=0.05)
    assert scale_line(look(1.4, 2), learnt) is None
    assert scale_line(look(1.0, 2), Shown().look("what mine learnt", 64)) is None


def test_no_crop_is_offered_where_none_shows_more():
    drawn = look(1.0, 2, "drawn images")
    line = scale_line(look(1.4, 1), drawn)
    assert "in real images as in drawn images" in line
    assert "no --crop shows more of real images" in line
    assert offered(scale_line(look(1.4, 1, crop="0.6"), drawn)) == pytest.approx(0.84, abs=0.05)
    field = scale_line(look(1.4, 1, crop="60um"), drawn)
    assert 78 < float(field.partition("--crop ")[2].partition("um")[0]) < 90


def test_pixel_sizes_decide_where_both_sides_know_them():
    tissue = {"x": np.zeros((12, 12, 25), np.float32)}
    real = Look(name="real images", objects=tissue, field_um=90.0)
    drawn = Look(name="drawn images", objects=tissue, field_um=64.0)
    line = scale_line(real, drawn)
    assert "drawn images show 64 µm, real images 90 µm" in line
    assert "--crop 64um shows real images alike" in line
    assert "no --crop" in scale_line(replace(real, field_um=40.0), drawn)
    assert scale_line(replace(real, field_um=66.0), drawn) is None
    agree = look(1.4, 1, "drawn images", field_um=50.0)
    assert "though their pixel sizes agree" in scale_line(look(1.0, 2, field_um=50.0), agree)
