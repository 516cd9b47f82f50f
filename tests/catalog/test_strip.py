"""Strips: a real source and what was bridged from it, in order, still or moving."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from catalog import Catalog, SampleSink, record_run, write_batch
from catalog.commands import catalog as group
from catalog.sheet import PAPER, REFUSED
from catalog.strip import CELL_PX, GAP_PX, progressions_of, write_strip
from factory.errors import CatalogError, DataError
from tests.fakes.rows import png, rejected, rows_table, run_row, sample_row

NAMES = ["a", "b"]
DEPTHS = 4


def bridged(source: str, target: int, *, swap: bool = False) -> list[dict[str, object]]:
    """Rows of one progression, laid down in another order than their depth."""
    rows = []
    for k in range(1, DEPTHS + 1):
        share = k / DEPTHS
        row = sample_row(k - 1, recipe=f"{source} to {target}", class_names=NAMES)
        shade = k + 100 * target
        row |= {
            "class_name": NAMES[target],
            "class_id": target,
            "soft_label": [1 - share, share] if target else [share, 1 - share],
            "bridge_depth": share,
            "reference_ids": [source],
            "image": {"bytes": png(shade), "path": row["image"]["path"]},
        }
        rows.append(row)
    return rows[::-1] if swap else rows


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("strip")
    data = root / "data"
    for number, shade in enumerate((250, 251)):
        path = data / "a" / f"s{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade))
    place = root / "catalog"
    rows = [*bridged("a/s0", 1, swap=True), *bridged("a/s0", 0), *bridged("a/s1", 1)]
    rows[0] = rejected(rows[0], "inversion: low")  # the deepest of the first
    rows += [sample_row(90 + i, recipe="other", class_names=NAMES) for i in range(4)]
    for row in rows[-4:]:
        row |= {"class_name": "a", "class_id": 0, "soft_label": [1.0, 0.0]}
    for index, start in enumerate(range(0, len(rows), 4)):
        batch = rows[start : start + 4]
        for slot, row in enumerate(batch):
            row["batch_slot"] = slot
        file = write_batch(place, run_id="run-1", batch_index=index, rows=rows_table(batch))
        SampleSink(place, "run-1").commit([file])
    record_run(place, run_row(config=json.dumps({"data": str(data)})))
    return str(place)


def test_progressions_are_ordered_by_target_and_depth(uri: str):
    to_a, to_b = progressions_of(Catalog(uri), "a/s0")
    assert to_a.title == "to a, run-1"
    assert to_b.labels == ("k=1  0.25", "k=2  0.50", "k=3  0.75", "k=4  1.00")
    assert to_b.accepted == (True, True, True, False)
    assert [image.getpixel((0, 0))[0] for image in to_b.images] == [101, 102, 103, 104]
    assert [image.getpixel((0, 0))[0] for image in to_a.images] == [1, 2, 3, 4]
    assert len(progressions_of(Catalog(uri), "a/s1")) == 1


def test_a_still_shows_the_source_first_and_enlarges_by_whole_pixels(uri: str, tmp_path):
    source = Image.new("RGB", (8, 8), (250, 0, 128))
    write_strip(tmp_path / "s.png", progressions_of(Catalog(uri), "a/s0"), source)
    with Image.open(tmp_path / "s.png") as image:
        still = np.asarray(image.convert("RGB"))
    counts = {shade: int((still == (shade, 0, 128)).all(2).sum()) for shade in (250, 1, 104)}
    assert counts == {250: 2 * CELL_PX**2, 1: CELL_PX**2, 104: CELL_PX**2}
    assert still.shape[1] == 5 * (CELL_PX + GAP_PX) + GAP_PX
    first = [int((still == (shade, 0, 128)).all(2).any(0).argmax()) for shade in (250, 1, 2, 3, 4)]
    assert first == [GAP_PX + n * (CELL_PX + GAP_PX) for n in range(5)]
    assert (still == REFUSED).all(2).any()
    assert tuple(still[-1, -1]) == PAPER


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_shows_one_depth_a_frame(uri: str, tmp_path, suffix: str):
    path = tmp_path / f"s{suffix}"
    write_strip(path, progressions_of(Catalog(uri), "a/s0"), Image.new("RGB", (8, 8), "white"))
    with Image.open(path) as moving:
        assert moving.n_frames == 1 + DEPTHS
        shades = []
        for frame in range(moving.n_frames):
            moving.seek(frame)
            shown = moving.convert("RGB")
            shades.append(shown.getpixel((2 * CELL_PX - 8 * GAP_PX, CELL_PX // 2))[0])
        assert moving.info["loop"] == 0
    assert shades == [255, 101, 102, 103, 104]


def run(*arguments: object):
    result = CliRunner().invoke(group, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_finds_the_source_where_the_run_did(uri: str, tmp_path):
    out = tmp_path / "s.png"
    said = run("strip", "a/s0", "--catalog", uri, "--out", out, "--out", tmp_path / "s.gif").output
    assert "s.png: 2 progressions" in said
    assert (tmp_path / "s.gif").exists()
    with Image.open(out) as image:
        assert image.getpixel((GAP_PX + 1, 40)) == (250, 0, 128)


def test_what_cannot_be_shown_is_explained(uri: str, tmp_path):
    with pytest.raises(CatalogError, match=r"bridged from \"o'x\"\. Sources look like 'a/s0'"):
        run("strip", "o'x", "--catalog", uri)
    with pytest.raises(DataError, match="no dataset at"):
        run("strip", "a/s0", "--catalog", uri, "--data", tmp_path / "gone")
    with pytest.raises(CatalogError, match=r"Name it \.png, \.gif or \.webp"):
        run("strip", "a/s0", "--catalog", uri, "--out", tmp_path / "s.jpg")
