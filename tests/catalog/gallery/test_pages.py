"""The other pages: one image, runs, models, gates, studies, releases, comparison."""

import io
import json
import re
from urllib.parse import unquote

import pytest
from PIL import Image

from catalog.export.png_text import as_synthetic
from catalog.gallery.charts import BINS, counts_of, histogram, ranges_of
from catalog.gallery.details import APART, GROUPS, card_html, facts, nearest_real
from catalog.gallery.filters import filters_of
from catalog.gallery.index import Index
from catalog.gallery.pictures import png_bytes
from catalog.gallery.reals import Reals
from catalog.gallery.records import laid_out
from catalog.releasing import create_release, retract_release
from catalog.results import effects, record_evaluation
from catalog.schema import SAMPLES
from catalog.tombstones import Mark, record_tombstones
from factory.real.smear import write_smear
from factory.real.sources import open_dataset
from tests.fakes.gallery import (
    catalog_at,
    client_of,
    evaluation_row,
    publish,
    score_row,
)
from tests.fakes.rows import STARTED, png, sample_row

FIRST = sample_row(0)["image_id"]
LATER = sample_row(9)["image_id"]


def test_every_column_has_a_place_on_the_image_page():
    placed = [*APART, *(name for names in GROUPS.values() for name in names)]
    assert sorted(placed) == sorted(SAMPLES.names)


def test_an_image_page_tells_everything(client):
    text = client.get(f"/image/run-low/{LATER}").text
    for part in (
        "sharpness 0.1 below 0.2",
        f"factory regenerate {LATER}",
        "recipe-a", "<dt>device</dt><dd>cpu</dd>", "split-a", "/models#model-a",
        "/runs#run-low",
        "the name", '<svg class="lineage"', "a neutrophil", sample_row(9)["pixel_sha256"],
    ):  # fmt: skip
        assert part in text, part
    assert "mask.png" not in text  # odd numbers have none
    assert "/mask.png" in client.get(f"/image/run-low/{FIRST}").text


def test_an_id_alone_leads_to_its_image(client):
    found = client.get(f"/image/{LATER}?zoom=2", follow_redirects=False)
    assert found.headers["location"] == f"/image/run-low/{LATER}?zoom=2"
    assert client.get("/image/nobody").status_code == 404


def test_neighbours_keep_the_filters(client):
    text = client.get(f"/image/run-low/{LATER}?status=rejected&sort=blur&run=run-low").text
    after = sample_row(19)["image_id"]
    link = f'<link rel="next" href="/image/run-low/{after}?run=run-low&amp;status=rejected'
    assert link in text
    assert 'rel="prev"' not in text


def test_pictures_are_the_stored_pixels_say_synthetic_and_carry_a_strong_tag(client):
    answer = client.get(f"/picture/run-low/{FIRST}/image.png")
    assert answer.content == as_synthetic(png(0), FIRST)  # a browser saves it among real ones
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "private, max-age=3600"
    tag = answer.headers["etag"]
    assert tag.startswith(f'"{sample_row(0)["pixel_sha256"]}')
    again = client.get(f"/picture/run-low/{FIRST}/image.png", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    mask = Image.open(io.BytesIO(client.get(f"/picture/run-low/{FIRST}/mask.png").content))
    assert len(mask.convert("RGB").getcolors()) == 3
    lines = client.get(f"/picture/run-low/{FIRST}/outlines.png").content
    colours = Image.open(io.BytesIO(lines)).convert("RGBA").getcolors()
    assert (0, 0, 0, 0) in [colour for _, colour in colours]
    assert client.get(f"/picture/run-low/{LATER}/mask.png").status_code == 404
    assert client.get(f"/picture/run-low/{FIRST}/secret.png").status_code == 404


def test_an_image_can_be_enlarged(client):
    text = client.get(f"/image/run-low/{FIRST}?zoom=4").text
    assert 'width="32" height="32"' in text
    assert client.get(f"/image/run-low/{FIRST}?zoom=5").status_code == 400


def test_runs_models_and_studies_are_told(client):
    runs = client.get("/runs").text
    assert runs.index("run-high") < runs.index("run-low")
    assert "complete" in runs
    assert "/images?run=run-low&amp;reason=blur" in runs
    models = client.get("/models").text
    assert "<h1>wbc-base</h1>" in models
    assert "<p>Not for diagnosis.</p>" in models
    assert "CC-BY-4.0" in models
    studies = client.get("/evaluations").text
    assert '<p class="verdict helps">mixed helps by 4.1 points [1.9, 6.3]</p>' in studies
    assert "0.750" in studies


@pytest.mark.parametrize(
    ("low", "high", "said", "shown"),
    [
        (0.019, 0.063, "mixed helps by 4.1 points [1.9, 6.3] over real", "verdict helps"),
        (-0.01, 0.05, "no evidence that mixed helps over real (2.0 points [-1.0, 5.0])", "verdict"),
        (-0.063, -0.019, "mixed hurts by 4.1 points [1.9, 6.3] against real", "verdict hurts"),
        (None, None, "mixed helps, it is said, and hurts", "verdict"),
    ],
)
def test_the_colour_of_a_verdict_is_its_intervals_not_its_words(tmp_path, low, high, said, shown):
    uri = catalog_at(tmp_path / "c", 4)
    difference = {"value": 0.0, "low": low, "high": high}
    comparisons = {"mixed": {"the baseline": {"difference": difference}, "other": {}}}
    row = evaluation_row(evaluation_id="study-2", verdicts=json.dumps({"mixed": said}))
    row |= {"comparisons": json.dumps(comparisons)}
    record_evaluation(uri, row, [score_row("mixed") | {"evaluation_id": "study-2"}])
    assert f'<p class="{shown}">{said}</p>' in client_of(uri).get("/evaluations").text


@pytest.mark.parametrize("stored", ["[]", "{", '{"mixed": []}', '{"mixed": {"the baseline": 1}}'])
def test_a_verdict_without_its_interval_has_no_colour(stored):
    row = evaluation_row(comparisons=stored)
    assert effects(row) == {"mixed": "no evidence"}


def test_histograms_count_every_image_and_mark_bounds(uri, client):
    index = Index(str(uri))
    view, filters = index.newest(), filters_of([])
    ends = ranges_of(index, view, filters)["blur_score"]
    counts = counts_of(index, view, filters, "blur_score", ends, "gate_status")
    assert {name: sum(n) for name, n in counts.items()} == {"accepted": 36, "rejected": 4}
    drawn = histogram("blur_score", ends, counts, marks=[0.01, 5.0])
    assert [value for _, value in drawn.marks] == [0.01]
    assert drawn.beyond == (5.0,)
    assert max(len(series.bars) for series in drawn.series) <= BINS
    text = client.get("/gates").text
    assert "accepted: 36" in text
    assert "bound 0.2 lies beyond" in text
    assert "copy_score" not in text  # no image has it


def test_two_conditions_are_compared_with_pairs(client):
    text = client.get("/compare?a.run=run-low&b.guidance_min=2").text
    assert re.search(r"<td>monocyte</td><td>4</td><td>4</td>", text)
    assert re.search(r"in both</td><td colspan=\"2\">0</td>", text)
    assert text.count('class="two"') == 20
    same = client.get("/compare?a.run=run-low&b.class=monocyte").text
    assert same.count("the same image") == 4
    assert re.search(r"in both</td><td colspan=\"2\">4</td>", same)


def test_nearest_real_images_are_named_and_shown_only_on_demand(tmp_path):
    write_smear(tmp_path / "real", 8, seed=0)
    real_id = open_dataset(str(tmp_path / "real")).ids[0]
    reason = f"copy: 0.60 of the distance that unseen real images keep in pixels, to {real_id}"
    publish(tmp_path / "c", "run-1", 1, gate_status="rejected", gate_reasons=[reason])
    page = f"/image/run-1/{FIRST}"
    closed = client_of(tmp_path / "c")
    assert real_id in closed.get(page).text
    assert "/real/" not in closed.get(page).text
    assert closed.get(f"/real/{real_id}").status_code == 404
    opened = client_of(tmp_path / "c", data=str(tmp_path / "real"))
    place = re.search(r'src="(/real/[^"]+)"', opened.get(page).text)[1]
    answer = opened.get(place)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "no-store"  # no browser keeps a patient's image
    assert Image.open(io.BytesIO(answer.content)).size[0] > 8
    assert opened.get("/real/nothing").status_code == 404
    assert opened.get("/real/../../etc/passwd").status_code == 404
    assert nearest_real({"gate_reasons": ["blur: 1"]}) is None


def test_the_overview_says_what_is_here_in_pictures_and_numbers(client):
    text = client.get("/").text
    for part in (
        "<b>40</b> images", "<b>36</b> accepted", "<b>4</b> rejected", "<b>5</b> classes",
        "<b>2</b> runs", "mixed helps by 4.1 points", "factory bank", "/images?reason=blur",
        "--data my-images",
    ):  # fmt: skip
        assert part in text, part
    assert text.count('src="data:image/png;base64,') == 6 * 4 + 4  # neutrophils lose four of eight
    assert "/beside" not in text
    old = client.get("/?class=monocyte&sort=blur", follow_redirects=False)
    assert old.headers["location"] == "/images?class=monocyte&sort=blur"


def test_real_images_stand_beside_drawn_ones_of_their_class_where_data_are_given(tmp_path):
    write_smear(tmp_path / "real", 20, seed=0)
    dataset = open_dataset(str(tmp_path / "real"))
    uri = catalog_at(tmp_path / "c")
    client = client_of(uri, data=str(tmp_path / "real"))
    label = dict(zip(dataset.ids, dataset.labels, strict=True))
    page = client.get("/beside?class=monocyte").text
    shown = {unquote(each) for each in re.findall(r'<img src="/real/([^"]+)"', page)}
    assert shown
    assert {label[image_id] for image_id in shown} == {"monocyte"}
    assert page.count('/image.png" alt="Drawn monocyte"') == 8
    assert client.get(f"/real/{next(iter(shown))}").headers["cache-control"] == "no-store"
    assert client_of(uri).get("/beside").status_code == 404


def test_the_nearest_real_image_is_found_however_turned(tmp_path):
    write_smear(tmp_path / "real", 20, seed=0)
    reals = Reals(str(tmp_path / "real"))
    number = 7
    turned = reals.dataset.picture(number).convert("RGB").rotate(90).resize((48, 48))
    found = reals.nearest(png_bytes(turned))
    assert found[0] == reals.dataset.ids[number]
    assert reals.nearest(b"no picture") == []


def test_a_card_is_set_as_text_and_leads_nowhere():
    table = "|a|b|\n|-|-|\n|1|2|\n"
    links = "[x](http://evil) ![y](http://evil/z.png) <script>1</script>"
    told = f"---\nlicense: mit\n---\n# A <b>card</b>\n\n{links}\n\n{table}"
    html = str(card_html(told))
    assert "<h1>A &lt;b&gt;card&lt;/b&gt;</h1>" in html
    assert "<td>2</td>" in html
    assert "license" not in html
    assert not re.search(r"<(a|img|script)", html)


def test_facts_of_a_json_are_told_as_names_and_values():
    told = '{"a": {"b": [1, 2], "c": null}, "d": 0.5, "e": {}}'
    assert facts(told) == [("a.b", "1, 2"), ("d", "0.5")]
    assert facts("no json") == [("text", "no json")]
    assert facts(None) == []


def test_a_drawing_of_a_lineage_joins_neighbouring_columns():
    drawn = laid_out([[("split", "s", ""), ("base", "b", "")], [("model", "m", "/models#m")]])
    assert len(drawn.boxes) == 3
    assert len(drawn.lines) == 2
    assert all(box.x + 100 < drawn.width and box.y < drawn.height for box in drawn.boxes)


MADE = {"now": STARTED, "code_version": "0.1.0"}


@pytest.fixture
def released(tmp_path):
    """A catalog with two releases, the later one retracted."""
    uri = catalog_at(tmp_path / "catalog")
    for version in (5, 10):
        create_release(uri, "wbc", where="class_name = 'monocyte'", version=version, **MADE)
    retract_release(uri, "wbc@1.1.0", reason="too few", **MADE)
    return client_of(uri)


def test_releases_are_listed_filtered_by_and_compared(released):
    listed = released.get("/releases").text
    assert "/compare?a.release=wbc%401.0.0&amp;b.release=wbc%401.1.0" in listed
    assert "retracted" in listed
    assert "of 4" in released.get("/images?release=wbc@1.0.0").text
    assert "of 8" in released.get("/images?release=wbc@1.1.0").text
    assert released.get("/images?release=wbc@1.0.0&version=3").status_code == 400
    compared = released.get("/compare?a.release=wbc@1.0.0&b.release=wbc@1.1.0").text
    assert re.search(r"<td>monocyte</td><td>4</td><td>8</td>", compared)
    assert re.search(r"in both</td><td colspan=\"2\">4</td>", compared)
    monocyte = sample_row(3)["image_id"]
    assert "/releases#wbc@1.0.0" in released.get(f"/image/run-low/{monocyte}").text
    assert "/releases#wbc" not in released.get(f"/image/run-low/{FIRST}").text


def test_what_is_forgotten_is_shown_nowhere(tmp_path):
    uri = catalog_at(tmp_path / "catalog")
    record_tombstones(uri, "real/1", [Mark(kind="image", target_id=FIRST, because="shown")], **MADE)
    client = client_of(uri)
    assert "of 39" in client.get("/images").text
    assert FIRST not in client.get("/compare?a.run=run-low&b.run=run-low").text
    for place in (f"/image/run-low/{FIRST}", f"/picture/run-low/{FIRST}/image.png"):
        assert client.get(place).status_code == 404
