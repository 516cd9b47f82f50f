"""Which values of masks are classes, and which a format or resizing left."""

import io

import numpy as np
import pytest
from PIL import Image

from factory.errors import DataError
from factory.real.images import decode_mask
from factory.real.mask_values import (
    blurred,
    count_values,
    found_values,
    mask_rule,
    pooled,
    refusal,
    spoilt,
    values_text,
)
from factory.real.sources import open_dataset
from tests.real.builders import encoded, png, put

SIDE_PX = 96


def drawn(values, seed, count=3):
    """Return a mask of ellipses, `count` of each value, on a ground of the first."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    mask = np.full((SIDE_PX, SIDE_PX), values[0], np.uint8)
    for value in [*values[1:]] * count:
        row, column = rng.uniform(15, SIDE_PX - 15, 2)
        radius, flat = rng.uniform(5, 16), rng.uniform(0.6, 1.6)
        mask[((rows - row) * flat) ** 2 + (columns - column) ** 2 < radius**2] = value
    return mask


def jpeg(mask, quality):
    return decode_mask(encoded(mask, "JPEG", quality=quality), name="m")


def left(masks, **how):
    counts = pooled(count_values(mask) for mask in masks)
    lost = spoilt(counts, **how)
    return [count.value for count in counts if count.value not in lost], lost


@pytest.mark.parametrize("quality", [60, 75, 85, 95, 100])
@pytest.mark.parametrize("values", [(0, 255), (0, 128, 255), (0, 200), (255, 0)])
def test_values_that_jpeg_left_are_told_from_classes(values, quality):
    kept, lost = left([jpeg(drawn(values, n), quality) for n in range(4)])
    assert kept == sorted(values)
    assert lost


@pytest.mark.parametrize("how", ["BILINEAR", "LANCZOS", "BOX"])
@pytest.mark.parametrize("values", [(0, 255), (0, 128, 255)])
def test_values_that_resizing_left_are_told_from_classes(values, how):
    small = [
        np.asarray(Image.fromarray(drawn(values, n)).resize((60, 60), Image.Resampling[how]))
        for n in range(4)
    ]
    kept, lost = left(small)
    assert kept == sorted(values)
    assert lost


@pytest.mark.parametrize(
    ("values", "contour"),
    [((0, 1), 2), ((0, 255), 128), ((0, 1, 2, 3), 255), ((0, 50, 100), 150), ((0, 1, 2), 4)],
)
def test_classes_and_drawn_contours_are_kept(values, contour):
    masks = [drawn(values, n) for n in range(4)]
    assert left(masks)[1] == ()
    for mask in masks:
        edge = np.zeros(mask.shape, bool)
        edge[1:] |= mask[1:] != mask[:-1]
        edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        mask[edge] = contour
    assert left(masks)[1] == ()


def test_numbered_objects_are_kept_and_a_jpeg_of_them_is_not():
    rng = np.random.default_rng(0)
    numbers = [drawn((0, *rng.permutation(40)[:12] + 1), n, count=1) for n in range(4)]
    assert left(numbers)[1] == ()
    assert left([drawn(range(13), 0, count=1)])[1] == ()
    counts = count_values(jpeg(drawn((0, 1, 2, 3), 0), 95))
    lost = spoilt(counts, jpeg=True)
    assert lost == tuple(count.value for count in counts)
    assert "JPEG files, which do not keep class numbers" in str(refusal(counts, lost))


def test_a_region_of_which_no_single_value_is_left_is_still_one():
    """In noise of a format a third class has no value of its own: its middle is offered."""
    rng = np.random.default_rng(0)
    masks = []
    for n in range(4):
        mask = drawn((0, 128, 255), n)
        noise = np.rint(rng.normal(0, 2, mask.shape))
        masks.append(np.where(mask == 128, mask + noise, mask).astype(np.uint8))
    counts = pooled(count_values(mask) for mask in masks)
    lost = spoilt(counts, jpeg=True)
    assert {*range(123, 134)} < {*lost}
    assert blurred(counts, lost) == (128,)
    assert "Pass --masks 0,128,255 " in str(refusal(counts, lost))
    edges = pooled(count_values(jpeg(drawn((0, 255), n), 60)) for n in range(4))
    assert blurred(edges, spoilt(edges, jpeg=True)) == ()


def test_empty_and_constant_masks_are_never_spoilt():
    assert spoilt(()) == ()
    assert left([np.zeros((8, 8), np.uint8)], jpeg=True)[1] == ()
    assert left([np.full((8, 8), 255, np.uint8)])[1] == ()


def test_shares_are_told_of_the_most_frequent_values():
    mask = np.zeros((10, 10), np.uint8)
    mask[:, :3] = 255
    mask[0, 0] = 7
    assert values_text(count_values(mask)) == "values 0 (70 %), 7 (1 %), 255 (29 %)"
    many = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert values_text(count_values(many)).endswith(", 92 others")


def spoilt_set(root):
    for n in range(4):
        put(root / f"images/{n}.png", png(n, SIDE_PX, SIDE_PX))
        put(root / f"masks/{n}.jpg", encoded(drawn((0, 255), n), "JPEG", quality=95))
    return root


def test_spoilt_masks_are_refused_and_read_by_a_rule(tmp_path):
    root = spoilt_set(tmp_path)
    with pytest.raises(DataError, match=r"values 0 \(.* %\).*and are no classes.*--masks 0,255"):
        open_dataset(root)
    assert "no classes" in open_dataset(root, keep_faults=True).faults[0]
    exact = [drawn((0, 255), n) for n in range(4)]
    for rule in ("0,255", "128"):
        made = open_dataset(root, masks=rule)
        assert found_values(made, made.ids) == (0, 255)
        assert np.mean([made.mask(n) != exact[n] for n in range(4)]) < 0.001
    assert not open_dataset(root, masks="none").has_masks


def test_objects_become_one_class_when_asked(tmp_path):
    deep = np.zeros((10, 12), np.uint16)
    deep[2:5, 2:5], deep[6:9, 6:9] = 300, 1000
    colours = np.zeros((10, 12, 3), np.uint8)
    colours[3:6, 3:6] = (0, 0, 128)
    for n, mask in enumerate([deep, colours]):
        put(tmp_path / f"images/{n}.png", png(n))
        put(tmp_path / f"masks/{n}.png", encoded(mask))
    with pytest.raises(DataError, match=r"not whole in 0\.\.255.*--masks object"):
        open_dataset(tmp_path)
    made = open_dataset(tmp_path, masks="object")
    assert [int((made.mask(i) == 255).sum()) for i in range(2)] == [18, 9]
    with pytest.raises(DataError, match="is coloured, it has no grey values to compare with 128"):
        open_dataset(tmp_path, masks="128")


def test_too_many_classes_say_how_to_make_them_one(tmp_path):
    put(tmp_path / "images/0.png", png(0, SIDE_PX, SIDE_PX))
    put(tmp_path / "masks/0.png", encoded(drawn(range(20), 1, count=1)))
    made = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"values \(0, 1, .*not 2 to 16.*--masks object"):
        found_values(made, made.ids)
    made = open_dataset(tmp_path, masks="object")
    assert found_values(made, made.ids) == (0, 255)


def alpha(colour, mask, mode):
    bands = [np.broadcast_to(np.asarray(c, np.uint8), mask.shape) for c in colour]
    image = Image.merge(mode, [Image.fromarray(np.array(band)) for band in [*bands, mask]])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "colour"), [("RGBA", (255, 0, 0)), ("RGBA", (0, 0, 0)), ("LA", (9,))]
)
def test_a_mask_in_the_alpha_channel_is_read(mode, colour):
    mask = drawn((0, 255), 1)
    assert (decode_mask(alpha(colour, mask, mode), name="m") == mask).all()


def test_colour_counts_where_alpha_says_nothing_or_the_same():
    mask = drawn((0, 255), 1)
    opaque = np.full_like(mask, 255)
    for seen in (opaque, mask):
        assert (decode_mask(alpha([mask] * 3, seen, "RGBA"), name="m") == mask).all()
    with pytest.raises(DataError, match="one mask in its colours and another in its transparency"):
        decode_mask(alpha([mask] * 3, drawn((0, 255), 2), "RGBA"), name="m")


def test_rules_round_to_the_nearest_value():
    rule = mask_rule("0, 100,255")
    stored = np.array([[0, 49, 51, 177, 178, 255]])
    assert rule.applied(stored, name="m").tolist() == [[0, 0, 100, 100, 255, 255]]
    assert mask_rule("51").applied(stored, name="m").tolist() == [[0, 0, 255, 255, 255, 255]]
    assert mask_rule(None) is mask_rule("none") is None


def test_grey_that_lossy_colour_left_a_little_apart_is_grey(tmp_path):
    mask = drawn((0, 255), 1)
    lossy = decode_mask(encoded(mask, "WEBP", quality=80), name="m")
    assert (np.where(lossy < 128, 0, 255) == mask).mean() > 0.995
    numbers = np.zeros((8, 8, 3), np.uint8)
    numbers[2:5, 2:5, 0] = 3  # a class number in the red channel is no grey
    with pytest.raises(DataError, match="is coloured"):
        decode_mask(encoded(numbers), name="m")
