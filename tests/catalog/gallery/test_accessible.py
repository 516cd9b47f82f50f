"""Every page of the gallery in a real browser, at two widths and in two themes; the map there."""

import re
from datetime import UTC, datetime

import pytest

from catalog.embed import embed, space_of
from catalog.gallery.app import application
from catalog.gallery.index import Index
from catalog.releasing import create_release
from factory.real.smear import write_smear
from tests.fakes.accessible import axe, faults
from tests.fakes.browser import browser, needs_chromium
from tests.fakes.discs import publish_discs
from tests.fakes.gallery import catalog_at, served
from tests.fakes.rows import sample_row

pytestmark = [pytest.mark.slow, needs_chromium]

MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}
OWN = sample_row(7, recipe="discs")["image_id"]
PAGES = (
    "", "images", "images?status=rejected&sort=blur", f"image/run-discs/{OWN}",
    f"image/run-low/{sample_row(0)['image_id']}?zoom=4", "map", "map?box=-9,-9,9,9", "beside",
    "gates", "runs", "models", "evaluations", "releases", "compare?a.run=run-low&b.run=run-high",
    "nowhere",
)  # fmt: skip
READY = """new Promise(done => { const map = document.getElementById("map");
  const look = () => map.dataset.drawn && map.dataset.reals ? done(map.dataset.drawn)
  : setTimeout(look, 20); look(); })"""
SHOWN = """new Promise(done => setTimeout(() => { const a = document.querySelector(".shown a");
  done([a.hidden, a.textContent, a.pathname, a.querySelector("img").naturalWidth]); }, 400))"""
MIDDLE = """(() => { const r = document.querySelector("canvas").getBoundingClientRect();
  return [r.x + r.width / 2, r.y + r.height / 2, r.width / 2 - 5, r.height / 2 - 5].map(Math.round);
})()"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    uri = catalog_at(folder / "catalog")
    publish_discs(uri, 60)
    embed(uri, space_of(None), **MADE)
    create_release(uri, "cells", **MADE)
    write_smear(folder / "real", 12, seed=0)
    with served(application(Index(str(uri)), data=str(folder / "real"))) as found:
        yield found


@pytest.fixture(scope="module")
def tab(address):
    with browser() as opened:
        yield opened


def test_what_is_asked_of_pages_finds_faults(tab, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><p style='color:#bbb'>pale</p><img src='data:,'><input><a href='#'></a>")
    (found,) = set(map(tuple, faults(tab, [bad.as_uri()]).values()))
    for fault in ("contrast 1.92", "no alt", "no label", "no name", "no language"):
        assert any(each.startswith(fault) for each in found), fault


def test_every_page_can_be_read_and_used(address, tab):
    assert faults(tab, [f"{address}{page}" for page in PAGES]) == {}


def test_axe_finds_nothing_serious(address, tab):
    assert faults(tab, [f"{address}{page}" for page in PAGES], axe()) == {}


def test_the_map_shows_what_is_pointed_at_and_a_part_becomes_sql(address, tab):
    steps = [("look", "1280 light"), ("go", f"{address}map"), ("read", READY)]
    drawn, (x, y, w, h) = tab.steps(*steps, ("read", MIDDLE))
    assert drawn == "100"
    point = f"""document.querySelector("canvas").dispatchEvent(new KeyboardEvent("keydown",
        {{key: "Enter", bubbles: true}})), {SHOWN}"""
    hidden, words, path, width = tab.steps(*steps, ("read", point))[1]
    assert hidden is False
    assert words.split()[-1] in sample_row(0)["class_names"]
    assert re.fullmatch(r"/at/\w+/\d+|/at-real/\d+", path)
    assert width > 0
    press = """document.querySelector("[data-do=choose]").click()"""
    place, told = tab.steps(
        *steps, ("read", f"{press}, 1"), ("drag", f"{x - w} {y - h} {x + w} {y + h}"),
        ("read", "location.search"), ("read", "document.querySelector('main').innerText"),
    )[2:]  # fmt: skip
    assert place.startswith("?box=")
    assert "images in this part" in told
    assert "image_id IN (" in told
    around = """document.querySelector("[data-do=around]").click()"""
    place, told = tab.steps(
        *steps, ("read", f"{around}, 1"),
        ("drag", f"{x - w} {y - h} {x + w} {y - h} {x + w} {y + h} {x - w} {y + h}"),
        ("read", "location.search"), ("read", "document.querySelector('main').innerText"),
    )[2:]  # fmt: skip
    assert place.startswith("?lasso=")
    assert 6 <= len(place.split("%2C")) <= 80
    assert "images in this part" in told
