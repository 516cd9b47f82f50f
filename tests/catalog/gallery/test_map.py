"""The map: points as bytes, a part of it as SQL, neighbours, real images where these are shown."""

import html
import json
import re
import shlex
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from catalog import Catalog, sql
from catalog.commands import catalog as group
from catalog.embed import embed, space_of
from catalog.features import maps_of, vectors_of
from catalog.gallery import map as map_page
from catalog.gallery.filters import Filters
from catalog.gallery.index import Index
from catalog.schema import FEATURES
from catalog.sink import append_once
from catalog.tombstones import Mark, record_tombstones
from factory.measure.rings import RingSpace
from factory.real.smear import write_smear
from tests.fakes.discs import publish_discs
from tests.fakes.gallery import client_of
from tests.fakes.rows import CLASSES, sample_row

MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}
COUNT = 100


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    place = tmp_path_factory.mktemp("mapped") / "catalog"
    publish_discs(place, COUNT)
    embed(place, space_of(None), **MADE)
    return place


@pytest.fixture(scope="module")
def client(uri):
    return client_of(uri)


def unpacked(data):
    size = int.from_bytes(data[:4], "little")
    head = json.loads(data[4 : 4 + size])
    n = head["n"]
    grid = np.frombuffer(data, "<u2", 2 * n, 4 + size).reshape(2, n).T
    low, high = np.array(head["box"][:2]), np.array(head["box"][2:])
    places = low + (high - low) * grid / 65535
    return head, places, np.frombuffer(data, "<u4", n, 4 + size + 4 * n)


def placed(uri):
    """Return image_id -> place, from the features themselves."""
    catalog = Catalog(uri)
    found = maps_of(catalog)[RingSpace.digest]
    return {
        i: place[:2]
        for ids, vectors in vectors_of(catalog, found.digest)
        for i, place in zip(ids.to_pylist(), found.axes(vectors), strict=True)
    }


def test_points_are_the_images_in_eight_bytes_each(uri, client):
    answer = client.get("/map/points")
    head, places, numbers = unpacked(answer.content)
    assert len(answer.content) < 8 * COUNT + 700
    assert (head["n"], head["whole"]) == (COUNT, COUNT)
    layers = dict.fromkeys(range(3), 0)
    for layer, _, count in head["runs"]:
        layers[layer] += count
    assert layers == {0: 88, 1: 8, 2: 4}
    page = client.get("/map").text
    epoch = re.search(r'data-at="/at/(\w+)/"', page)[1]
    where, spread = placed(uri), np.ptp(places, axis=0)
    for at in (0, 37, COUNT - 1):
        leads = client.get(f"/at/{epoch}/{numbers[at]}?class=x").headers["location"]
        image_id = re.fullmatch(r"/image/run-discs/(\w+)\?class=x", leads)[1]
        assert (np.abs(where[image_id] - places[at]) < 2e-5 * spread + 1e-6).all()
    thumb = client.get(f"/at/{epoch}/{numbers[0]}.png")
    assert thumb.content.startswith(b"\x89PNG")
    assert client.get(f"/at/{epoch}/999999").status_code == 404
    assert client.get(f"/at/0{epoch}/0").status_code == 404  # of another start
    rejected = unpacked(client.get("/map/points?status=rejected&class=neutrophil").content)[0]
    assert rejected["n"] == 12
    assert rejected["names"] == ["neutrophil"]


def test_the_page_has_a_legend_and_asks_for_no_script_of_others(client):
    page = client.get("/map").text
    assert [f'data-class="{name}"' in page for name in CLASSES] == [True] * 5
    assert re.search(r'near copies <span class="count">4<', page)
    assert 'data-layer="3"' not in page  # no real image without --data
    assert client.get("/map/real").status_code == 404
    assert client.get("/at-real/0").status_code == 404
    policy = client.get("/map").headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy


def test_without_features_the_page_says_how_to_get_them(tmp_path):
    publish_discs(tmp_path, 4)
    client = client_of(tmp_path)
    assert f"factory catalog embed --catalog {tmp_path}" in client.get("/map").text
    assert client.get("/map/points").status_code == 404
    assert client.get("/images?box=0,0,1,1").status_code == 400
    page = client.get(f"/image/{sample_row(0, recipe='discs')['image_id']}", follow_redirects=True)
    assert "No features of this image yet" in page.text


def test_features_that_come_later_are_seen_without_a_new_start(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.gallery.index.LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("catalog.gallery.index.REST", 0)
    publish_discs(tmp_path, 20)
    client = client_of(tmp_path)
    assert client.get("/map/points").status_code == 404
    embed(tmp_path, space_of(None), **MADE)
    assert unpacked(client.get("/map/points").content)[0]["n"] == 20
    publish_discs(tmp_path, 15, run_id="run-2", recipe="more")
    assert "15 images have no features yet" in client.get("/map").text
    embed(tmp_path, space_of(None), **MADE)
    assert unpacked(client.get("/map/points").content)[0]["n"] == 35
    publish_discs(tmp_path, 10, run_id="run-3", recipe="most")
    embed(tmp_path, space_of(None), **MADE)  # fitted anew: all places are other ones
    head, places, _ = unpacked(client.get("/map/points").content)
    assert head["n"] == 45
    where = np.array(list(placed(tmp_path).values()))
    assert np.allclose(np.sort(places[:, 0]), np.sort(where[:, 0]), atol=1e-4)


@pytest.mark.parametrize("box", ["1,0,0,1", "a,b,c,d", "0,0,1", "nan,0,1,1", "0,0,inf,1", "x" * 50])
def test_a_box_that_is_none_is_refused(client, box):
    assert client.get(f"/map?box={box}").status_code == 400


def test_a_part_of_the_map_is_told_in_sql_that_finds_the_same_images(uri, client, tmp_path):
    ends = np.array(list(placed(uri).values()))
    low, high = np.percentile(ends, 20, axis=0), np.percentile(ends, 80, axis=0)
    box = ",".join(f"{end:.6g}" for end in (*low, *high))
    inside = {
        i for i, at in placed(uri).items()
        if (at >= np.float32(low)).all() and (at <= np.float32(high)).all()
    }  # fmt: skip
    assert 10 < len(inside) < COUNT
    page = client.get(f"/map?box={box}").text
    assert f"{len(inside)} images in this part" in page
    assert page.count('class="tile ') == min(len(inside), map_page.SHOWN)
    told = [line.replace("&#39;", "'").replace("&#34;", '"')
            for line in re.findall(r"<pre>(.*?)</pre>", page, re.S)]  # fmt: skip
    assert told[0].startswith("image_id IN ('")
    assert ids_of(uri, told[0]) == inside
    words = shlex.split(told[1])
    assert words[:3] == ["factory", "catalog", "sheet"]
    words[words.index("chosen.png")] = str(tmp_path / "chosen.png")
    words += ["--per-class", "99"]
    done = CliRunner().invoke(group, words[2:])
    assert f"{len(inside)} images" in done.output
    assert client.get(f"/images?box={box}").text.count('class="tile ') == len(inside)


def test_a_large_part_is_told_by_its_coordinates_and_keeps_the_filters(uri, monkeypatch):
    monkeypatch.setattr(map_page, "NAMED", 1)
    index = Index(str(uri))
    found = index.points.map()
    ends = np.array(list(placed(uri).values()))
    low, high = np.percentile(ends, 10, axis=0), np.percentile(ends, 90, axis=0)
    box = tuple(float(end) for end in (*low, *high))
    for more in (
        {"exact": {"class": "monocyte"}},
        {"bounds": {"blank_max": 0.7}, "where": "recipe_index > 3 OR recipe_index = 1"},
        {"reason": "blur"},
    ):
        filters = Filters(box=box, **more)
        if "where" in more:
            from catalog.gallery.listing import view_of

            view = view_of(index, filters)
        else:
            view = index.newest()
        chosen = map_page.chosen_of(index, view, filters, found)
        held, values = filters.condition(view)
        expected = index.ask(f"SELECT image_id FROM images WHERE {held}", values)
        assert chosen.total == len(expected) > 1
        assert "x BETWEEN" in chosen.condition
        assert ids_of(uri, chosen.condition) == {row["image_id"] for row in expected}
    index.close()


@pytest.mark.parametrize(
    "lasso", ["0,0,1,1", "0,0,1,1,2", "a,0,1,1,2,2", "0,0,1,1,2,nan", "0," * 90]
)
def test_a_lasso_that_is_none_is_refused(client, lasso):
    assert client.get(f"/map?lasso={lasso}").status_code == 400


def test_a_part_that_was_drawn_around_holds_what_lies_within(uri, client, monkeypatch):
    places = placed(uri)
    ends = np.array(list(places.values()))
    middle, spread = np.median(ends, axis=0), 2 * ends.std(axis=0)
    turns = np.linspace(0, 2 * np.pi, 11)[:-1]
    far = np.where(np.arange(10) % 2, 0.4, 1.0)[:, None]  # a star
    corners = middle + far * spread * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    lasso = ",".join(f"{end:.7g}" for end in corners.ravel())
    around = [*(corners - middle), corners[0] - middle]
    pieces = [np.stack([one, other]).T for one, other in pairwise(around)]  # from the middle
    inside = {
        i for i, at in places.items()
        if any((s >= 0).all() and s.sum() <= 1
               for s in (np.linalg.solve(piece, at - middle) for piece in pieces))
    }  # fmt: skip
    assert 10 < len(inside) < COUNT
    page = client.get(f"/map?lasso={lasso}").text
    assert f"{len(inside)} images in this part" in page
    assert client.get(f"/images?lasso={lasso}").text.count('class="tile ') == len(inside)
    monkeypatch.setattr(map_page, "NAMED", 1)
    classes = {name: inside & ids_of(uri, f"class_name = '{name}'") for name in CLASSES}
    name = max(classes, key=lambda name: len(classes[name]))
    page = client.get(f"/map?lasso={lasso}&class={name}").text
    condition = html.unescape(re.findall(r"<pre>(.*?)</pre>", page, re.S)[0])
    assert "DOUBLE" in condition
    assert ids_of(uri, condition) == classes[name]


def ids_of(uri, condition):
    rows = sql(Catalog(uri), f"SELECT image_id FROM samples WHERE {condition}")
    return set(rows["image_id"].to_pylist())


def test_the_nearest_drawn_images_are_those_of_the_features(uri, client):
    vectors = {
        i: v
        for ids, block in vectors_of(Catalog(uri), RingSpace.digest)
        for i, v in zip(ids.to_pylist(), block, strict=True)
    }
    own = sample_row(7, recipe="discs")["image_id"]
    exact = sorted(vectors, key=lambda i: ((vectors[i] - vectors[own]) ** 2).sum())[1:9]
    page = client.get(f"/image/run-discs/{own}").text
    near = page[page.index("Nearest drawn") : page.index("By features")]
    shown = re.findall(r"/image/run-discs/(\w+)", near)
    assert len(shown) == 8
    assert len(set(shown) & set(exact)) >= 7
    assert own not in shown


def test_what_is_forgotten_is_neither_on_the_map_nor_a_neighbour(tmp_path):
    ids = publish_discs(tmp_path, 20)
    embed(tmp_path, space_of(None), **MADE)
    mark = Mark(kind="image", target_id=ids[3], because="train")
    record_tombstones(tmp_path, "somebody", [mark], **MADE)
    client = client_of(tmp_path)
    head, _, numbers = unpacked(client.get("/map/points").content)
    assert head["n"] == 19
    epoch = re.search(r'data-at="/at/(\w+)/"', client.get("/map").text)[1]
    (gone,) = set(range(20)) - set(numbers.tolist())
    assert client.get(f"/at/{epoch}/{gone}").status_code == 404
    for image_id in ids[:3]:
        assert ids[3] not in client.get(f"/image/run-discs/{image_id}").text


def test_features_that_are_none_leave_the_other_pages_alone(tmp_path):
    ids = publish_discs(tmp_path, 4)
    embed(tmp_path, space_of(None), **MADE)
    row = {"image_id": "x", "space": "rings", "space_digest": RingSpace.digest, "features": [1.0]}
    append_once(
        tmp_path, "features", pa.Table.from_pylist([row], schema=FEATURES),
        key={"space_digest": RingSpace.digest}, app_id="others", app_version=1,
    )  # fmt: skip
    client = client_of(tmp_path)
    answer = client.get("/map")
    assert answer.status_code == 503
    assert "Move the folder" in answer.text
    assert client.get(f"/image/run-discs/{ids[0]}").status_code == 200


def test_real_images_are_a_layer_of_their_own_where_data_is_given(uri, tmp_path):
    write_smear(tmp_path / "real", 12, seed=0)
    client = client_of(uri, data=str(tmp_path / "real"))
    assert 'data-layer="3"' in client.get("/map").text
    answer = client.get("/map/real")
    assert answer.headers["cache-control"] == "no-store"
    head, places, numbers = unpacked(answer.content)
    assert sorted(numbers.tolist()) == list(range(12))
    assert {layer for layer, _, _ in head["runs"]} == {3}
    assert np.isfinite(places).all()
    leads = client.get("/at-real/0").headers["location"]
    assert client.get(leads).content.startswith(b"\x89PNG")
    assert client.get("/at-real/99").status_code == 404


def test_of_very_many_images_every_so_many_are_drawn_and_all_are_counted(client, monkeypatch):
    monkeypatch.setattr(map_page, "MOST_POINTS", 30)
    first = client.get("/map/points").content
    head = unpacked(first)[0]
    assert head["whole"] == COUNT
    assert 5 < head["n"] < 60
    assert client.get("/map/points").content == first
