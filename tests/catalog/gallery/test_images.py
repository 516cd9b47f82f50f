"""The page of thumbnails: what it holds, filters, sorts, keyset pages, and what it refuses."""

import re
from itertools import pairwise

import pytest

from catalog.gallery.filters import filters_of
from catalog.gallery.index import Index
from catalog.gallery.listing import around, key_of, page_of
from catalog.selection import Selection
from catalog.table import Catalog
from tests.fakes.gallery import client_of, publish
from tests.fakes.rows import STARTED, sample_row


def shown(client, query=""):
    """The ids of the images of a page, in order."""
    answer = client.get(f"/images?{query}")
    assert answer.status_code == 200, answer.text
    return re.findall(r'class="tile [a-z]+" href="/image/[^/]+/([0-9a-f]+)', answer.text)


def ids(numbers, recipe="recipe-a"):
    return {sample_row(n, recipe=recipe)["image_id"] for n in numbers}


def test_a_page_shows_thumbnails_classes_and_verdicts(client):
    text = client.get("/images").text
    assert text.count('src="data:image/png;base64,') == 40 + 20  # images, and outlines of masks
    assert "<b>1 to 40</b> of 40" in text
    assert 'alt="eosinophil, accepted"' in text
    assert text.count("rejected: blur") == 4


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("class=monocyte", {3, 8, 13, 18}),
        ("status=rejected", {9, 19}),
        ("reason=blur", {9, 19}),
        ("reason=copy", set()),
        ("blur_min=0.004&blur_max=0.006", {4, 5, 6}),
        ("agreement_max=0.5", set()),
        ("method=text&blur_max=0", {0}),
        ("model=model-a&blur_min=0.019", {19}),
        ("where=recipe_index%20%3D%207", {7}),
        ("where=recipe_index+%3E+1000", set()),
    ],
)
def test_a_filter_leaves_what_it_says(client, query, numbers):
    assert set(shown(client, query)) == ids(numbers) | ids(numbers, "recipe-b")


def test_run_recipe_guidance_and_version_choose(client):
    low = ids(range(20))
    assert set(shown(client, "run=run-low")) == low
    assert set(shown(client, "guidance_max=2")) == low
    assert set(shown(client, "guidance_min=2")) == ids(range(20), "recipe-b")
    assert set(shown(client, f"recipe={sample_row(0)['recipe_digest']}")) == low
    assert set(shown(client, "version=2")) == ids(range(8))
    assert shown(client, "version=0") == []


def test_a_score_sorts_both_ways(client):
    rising = shown(client, "run=run-low&sort=blur")
    assert rising == [sample_row(n)["image_id"] for n in range(20)]
    assert shown(client, "run=run-low&sort=blur_down") == rising[::-1]
    assert shown(client, "sort=copy") == []  # no image has that score


@pytest.mark.parametrize("sort", ["newest", "oldest", "blur", "agreement_down", "guidance"])
def test_pages_hold_every_image_once_forwards_and_back(uri, sort):
    index = Index(str(uri))
    view, filters = index.newest(), filters_of([("sort", sort)])
    pages, after = [], ""
    while not pages or after:
        pages.append(page_of(index, view, filters, after=after, size=7))
        after = pages[-1].after
    keys = [key_of(row) for page in pages for row in page.rows]
    assert len(set(keys)) == len(keys) == 40
    assert [page.first for page in pages] == [1, 8, 15, 22, 29, 36]
    assert not pages[0].before
    for earlier, later in pairwise(pages):
        back = page_of(index, view, filters, before=later.before, size=7)
        assert (back.rows, back.first) == (earlier.rows, earlier.first)
    for place in (0, 17, 39):
        sides = around(index, view, filters, keys[place])
        assert sides == (keys[place - 1] if place else "", (*keys, "")[place + 1])


def test_an_image_of_two_runs_shows_once_like_in_a_selection(tmp_path):
    publish(tmp_path, "later", 4, created_at=STARTED.replace(day=22), guidance_scale=3.0)
    publish(tmp_path, "earlier", 4)
    client = client_of(tmp_path)
    assert set(shown(client)) == ids(range(4))
    assert len(shown(client)) == 4
    assert client.get("/images").text.count("/image/earlier/") == 4
    assert len(shown(client, "run=later")) == len(shown(client, "guidance_min=2")) == 4
    later = Selection(catalog=Catalog(tmp_path), where="guidance_scale > 2")
    assert set(shown(client, "guidance_min=2")) == set(later.image_ids)


def test_the_index_follows_a_growing_catalog(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.gallery.index.LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("catalog.gallery.index.REST", 0)
    publish(tmp_path, "run-1", 4)
    client = client_of(tmp_path)
    assert len(shown(client)) == 4
    publish(tmp_path, "run-2", 4, recipe="recipe-b")
    assert len(shown(client)) == 8
    assert len(shown(client, "version=1")) == 4
    publish(tmp_path, "run-3", 4, recipe="recipe-c")
    assert [len(shown(client, f"version={v}")) for v in (1, 2, 3)] == [4, 8, 12]


def test_a_broken_picture_is_said_and_breaks_nothing_else(tmp_path):
    broken = {"bytes": b"\x89PNG\r\n\x1a\n no more", "path": "mask.png"}
    publish(tmp_path, "run-1", 4, mask=broken)
    image_id = sample_row(0, recipe="b")["image_id"]
    image = {"bytes": b"<svg onload=alert(1)>", "path": f"{image_id}.png"}
    publish(tmp_path, "run-2", 1, recipe="b", image=image)
    client = client_of(tmp_path)
    assert client.get("/images").text.count("no readable picture") == 1
    assert client.get(f"/picture/run-2/{image_id}/image.png").status_code == 404
    assert "<svg onload" not in client.get(f"/image/run-2/{image_id}").text


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/images?clas=monocyte", 400, "no parameter &#39;clas&#39;"),
        ("/images?class=a&class=b", 400, "&#39;class&#39; is given twice"),
        ("/images?blur_min=much", 400, "blur_min is &#39;much&#39;"),
        ("/images?blur_min=nan", 400, "no number"),
        ("/images?version=-1", 400, "version is &#39;-1&#39;"),
        ("/images?version=99", 400, "at version 99"),
        ("/images?sort=beauty", 400, "nothing sorts by &#39;beauty&#39;"),
        ("/images?release=none@1.0.0", 400, "there is no release &#39;none@1.0.0&#39;"),
        ("/images?after=a/b", 404, "image &#39;a/b&#39; is not in"),
        ("/images?after=a/b&before=a/b", 400, "both given"),
        ("/images?where=nothing", 400, "&#34;nothing&#34; not found"),
        ("/images?where=1=1)%3B+DROP+TABLE+samples%3B+--", 400, "Correct the SQL"),
        (
            "/images?where=image_id+IN+(SELECT+content+FROM+read_text('/etc/passwd'))",
            400,
            "no files",
        ),
        ("/images?class=" + "x" * 3000, 400, "3000 characters"),
        ("/image/run-low/nothing", 404, "is not in"),
        ("/image/run-low/nothing?zoom=5", 404, "is not in"),
        ("/picture/run-low/nothing/image.png", 404, "is not in"),
        ("/runs?x=1", 400, "no parameter &#39;x&#39; here"),
        ("/compare?class=a", 400, "Write a.NAME"),
        ("/compare?a.clas=a", 400, "no parameter &#39;clas&#39;"),
        ("/nothing", 404, "no page &#39;/nothing&#39;"),
        ("/static/../app.py", 404, "no page"),
        ("/static/..%2fapp.py", 404, ""),
        ("/real/0001.png", 404, "no page"),
    ],
)
def test_a_bad_address_is_one_clear_line(client, address, status, message):
    answer = client.get(address)
    assert answer.status_code == status
    assert message in answer.text
    lines = re.findall(r'<p class="verdict hurts">(.*?)</p>', answer.text, re.S)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "Traceback" not in answer.text


def test_a_condition_that_takes_too_long_is_given_up(client, monkeypatch):
    monkeypatch.setattr("catalog.gallery.listing.CONDITION_SECONDS", 0.2)
    endless = (
        "(SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range > b.range) > 0"
    )
    answer = client.get("/images", params={"where": endless})
    assert answer.status_code == 400
    assert "took longer than 0.2 s" in answer.text


def test_a_catalog_without_images_has_its_pages(tmp_path):
    Catalog.create(tmp_path)
    client = client_of(tmp_path)
    for page in (
        "/",
        "/images",
        "/runs",
        "/models",
        "/gates",
        "/evaluations",
        "/releases",
        "/compare",
    ):
        assert client.get(page).status_code == 200
    assert "No image satisfies this" in client.get("/images").text
    assert f"factory generate --catalog {tmp_path}" in client.get("/").text


def test_a_view_does_not_see_what_comes_later(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.gallery.index.LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("catalog.gallery.index.REST", 0)
    publish(tmp_path, "run-1", 4)
    index = Index(str(tmp_path))
    view = index.newest()
    publish(tmp_path, "run-2", 4, recipe="recipe-b")
    later = index.newest()
    assert [page_of(index, each, filters_of([])).total for each in (view, later)] == [4, 8]


def test_chips_count_what_the_other_filters_leave_and_lead_back(client):
    text = client.get("/images?class=monocyte&status=rejected").text
    chips = re.findall(
        r'<a class="chip" href="/images\?([^"]*)"( aria-current="true")?>([^ ]+) <span'
        r' class="count">(\d+)</span>',
        text,
    )
    found = {label: (query, bool(chosen), int(n)) for query, chosen, label, n in chips}
    assert found["monocyte"] == ("status=rejected", True, 0)
    assert found["neutrophil"] == ("status=rejected&amp;class=neutrophil", False, 4)
    assert found["accepted"] == ("class=monocyte&amp;status=accepted", False, 8)
    for label, (query, _, count) in found.items():
        if count:
            assert f"of {count}" in client.get(f"/images?{query.replace('&amp;', '&')}").text, label


def test_only_what_some_image_has_can_be_chosen(client):
    text = client.get("/images").text
    assert "blur_min" in text
    assert "copy_min" not in text  # no image has that score
    assert "range_min" not in text  # all have the same
    assert "<option>guidance_down</option>" in text
    assert ">method</span>" not in text  # there is one
