"""Fields of view: pixel sizes and crops of real sets, and how large objects look."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from factory.errors import DataError
from factory.real.commands import real
from factory.real.field import Crop, Shown, crop_rule
from factory.real.sources import open_dataset
from tests.real.builders import encoded, put


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.711", Crop(share=0.711)),
        ("0,5", Crop(share=0.5)),
        ("80um", Crop(field_um=80.0)),
        (" 12.5 µm", Crop(field_um=12.5)),
        ("1", None),
        (None, None),
    ],
)
def test_a_crop_is_a_share_or_a_field(text, found):
    assert crop_rule(text) == found
    if found is not None:
        assert crop_rule(found.text) == found


@pytest.mark.parametrize("text", ["0", "1.2", "-0.5", "nan", "80 mm", "half", "infum", ""])
def test_what_is_no_part_of_a_frame_is_refused(text):
    with pytest.raises(DataError, match="is no part of a frame"):
        crop_rule(text)


def frame(width: int, height: int, shade: int = 0) -> Image.Image:
    """A dark disc in the middle of a bright frame, 40 pixels across."""
    image = Image.new("RGB", (width, height), (230, 220, 210 - shade))
    pen = ImageDraw.Draw(image)
    x, y = width // 2, height // 2
    pen.ellipse((x - 20, y - 20, x + 20, y + 20), fill=(90, 40, 120))
    return image


@pytest.fixture
def folder(tmp_path):
    """Two frames with masks and a table of their pixel sizes."""
    for name, (width, height) in {"a": (100, 120), "b": (200, 200)}.items():
        put(tmp_path / f"images/x/{name}.png", encoded(np.asarray(frame(width, height))))
        mask = np.zeros((height, width), np.uint8)
        mask[height // 2 - 20 : height // 2 + 20, width // 2 - 20 : width // 2 + 20] = 1
        put(tmp_path / f"masks/x/{name}.png", encoded(mask))
    (tmp_path / "metadata.csv").write_text("file,mpp\nx/a.png,0.5\nx/b.png,0.25\n")
    return tmp_path


def test_a_share_of_every_frame_is_shown_and_is_another_dataset(folder):
    whole, half = open_dataset(folder), open_dataset(folder, crop="0.5")
    assert half.image(0).shape == (60, 50, 3)
    assert half.mask(0).shape == (60, 50)
    assert np.array_equal(half.image(0), whole.image(0)[30:90, 25:75])
    assert np.array_equal(half.mask(1), whole.mask(1)[50:150, 50:150])
    assert half.array(64)[0].mean() < whole.array(64)[0].mean() - 20  # the dark disc is larger
    assert (half.contents[0].width_px, half.contents[0].height_px) == (50, 60)
    assert (
        len({whole.fingerprint, half.fingerprint, open_dataset(folder, crop="0.6").fingerprint})
        == 3
    )
    assert open_dataset(folder, crop="1").fingerprint == whole.fingerprint
    assert open_dataset(f"{folder}?crop=0.5").fingerprint == half.fingerprint
    assert half.select(half.ids[:1]).image(0).shape == (60, 50, 3)


def test_a_field_in_micrometres_shows_objects_of_one_size_alike(folder):
    cells = open_dataset(folder, crop="30um")
    assert cells.image(0).shape == (60, 60, 3)
    assert cells.image(1).shape == (120, 120, 3)
    assert cells.fields_um == (30.0, 30.0)
    with pytest.raises(DataError, match=r"shows 50 µm, less than --crop 60um"):
        open_dataset(folder, crop="60um")


def test_pixel_sizes_come_from_a_usual_column_a_named_one_or_one_number(folder):
    assert [i.pixel_size_um for i in open_dataset(folder).items] == [0.5, 0.25]
    assert [i.pixel_size_um for i in open_dataset(folder, pixel_size_um=2).items] == [2, 2]
    assert open_dataset(folder).fingerprint == open_dataset(folder, pixel_size_um=2).fingerprint
    assert open_dataset(folder).attributes["x/a"] == {"mpp": "0.5"}
    (folder / "metadata.csv").write_text('file,scale\nx/a.png,"0,5"\nx/b.png,\n')
    named = open_dataset(folder, pixel_size_um="scale")
    assert [i.pixel_size_um for i in named.items] == [0.5, None]
    assert open_dataset(folder).items[0].pixel_size_um is None
    with pytest.raises(DataError, match="has no pixel size, and --crop 30um is a field"):
        open_dataset(folder, crop="30um")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("-1", "is no size"),
        ("0", "is no size"),
        ("nan", "is no size"),
        ("wide", "no column 'wide'"),
    ],
)
def test_a_pixel_size_that_is_none_is_refused(folder, size, message):
    with pytest.raises(DataError, match=message):
        open_dataset(folder, pixel_size_um=size)


def test_a_cell_that_is_no_size_names_its_row(folder):
    (folder / "metadata.csv").write_text("file,mpp\nx/a.png,fine\nx/b.png,0.25\n")
    with pytest.raises(DataError, match="line 2: mpp is 'fine', no size of a pixel"):
        open_dataset(folder)


def test_describe_tells_fields_and_crop(folder):
    told = CliRunner().invoke(real, ["describe", str(folder), "--crop", "0.5"]).output
    assert "crop         0.5: the central part of each" in told
    assert "fields       25 µm (2)" in told
    (folder / "metadata.csv").write_text("file,mpp\nx/a.png,1\nx/b.png,0.25\n")
    told = CliRunner().invoke(real, ["describe", str(folder)]).output
    assert "warning: images show fields of 50 to 100 µm" in told
    assert "--crop 50um shows them alike" in told
    plain = CliRunner().invoke(real, ["describe", str(folder), "--json"]).output
    assert json.loads(plain)["fields_um"] == {"100": 1, "50": 1}


def test_what_a_generator_learnt_is_kept_and_read_again(folder):
    shown = open_dataset(folder, crop="0.5").shown(50, ["x/a", "x/b"])
    assert (shown.pixel_size_um, shown.crop) == (0.5, "0.5")  # 25 µm of 50 pixels
    assert shown.objects.images == 2
    assert Shown.model_validate_json(shown.model_dump_json()) == shown
    assert open_dataset(folder, pixel_size_um="1").shown(50, ["x/a"]).pixel_size_um == 2
    (folder / "metadata.csv").write_text("file,mpp\nx/a.png,0.5\nx/b.png,\n")
    assert open_dataset(folder).shown(50, ["x/a", "x/b"]).pixel_size_um is None


@pytest.mark.parametrize(
    "stored", [{"crop": "half"}, {"pixel_size_um": -1}, {"pixel_size_um": "x"}]
)
def test_a_field_that_is_none_is_refused(stored):
    with pytest.raises(ValueError, match=r"no part of a frame|pixel_size_um"):
        Shown.model_validate(stored)


@pytest.mark.parametrize("typed", ["0.711", 0.711])
def test_a_share_is_taken_as_a_number_too(typed: str | float) -> None:
    """As YAML reads it: `--set frames=0.711`, `crop: 0.711`."""
    assert Shown.model_validate({"crop": typed}).crop == "0.711"
