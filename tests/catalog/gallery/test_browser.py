"""End to end: the command serves, a real browser looks."""

import re
import socket
import subprocess
import sys
import urllib.request

import pytest

from catalog import SampleSink, write_batch
from tests.catalog.gallery.test_guard import EVIL
from tests.fakes.browser import browser, needs_chromium
from tests.fakes.gallery import catalog_at, publish
from tests.fakes.rows import rows_table, sample_row

pytestmark = [pytest.mark.slow, needs_chromium]

TILES = "document.querySelectorAll('.tile').length"
TITLE = "document.querySelector('h1').innerText"
PLACE = "location.pathname + location.search"
# a picture that the policy stops, or that is none, has no width
BROKEN = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A catalog of 245 images, one of them with hostile texts, served by the command."""
    uri = catalog_at(tmp_path_factory.mktemp("served") / "catalog")
    rows = [sample_row(n, recipe="many") for n in range(204)]
    file = write_batch(uri, run_id="run-many", batch_index=0, rows=rows_table(rows))
    SampleSink(uri, "run-many").commit([file])
    publish(uri, "run-evil", 1, recipe="evil", class_name=EVIL, prompt=EVIL,
            gate_status="rejected", gate_reasons=[EVIL])  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from factory.cli import main; main()"
    arguments = ["gallery", "--catalog", str(uri), "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            assert "245 images at http://127.0.0.1" in line
            url = re.search(r"http://\S+", line)[0]
            urllib.request.urlopen(f"{url}runs", timeout=900).close()
            yield url
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def tab(address):
    with browser() as opened:
        yield opened


def test_filters_pages_and_images_work_with_mouse_and_keys(address, tab):
    found = tab.steps(
        ("go", f"{address}images"), ("read", TILES), ("read", BROKEN),
        ("press", "ArrowRight"), ("read", TILES), ("read", PLACE),
        ("press", "ArrowLeft"), ("read", TILES),
        ("go", f"{address}images?run=run-low&class=monocyte&sort=blur"), ("read", TILES),
        ("click", ".tile"), ("read", TITLE), ("read", BROKEN), ("read", PLACE),
        ("press", "ArrowRight"), ("read", PLACE),
    )  # fmt: skip
    assert found[:3] == [200, 0, 45]
    assert found[3].startswith("/images?after=run-")
    assert found[4:6] == [200, 4]
    assert found[6] == "monocyte accepted"
    assert found[7] == 0
    first, second = (sample_row(n)["image_id"] for n in (3, 8))
    assert found[8:] == [
        f"/image/run-low/{i}?class=monocyte&run=run-low&sort=blur" for i in (first, second)
    ]


def test_a_form_filters_and_outlines_can_be_hidden(address, tab):
    hidden = "getComputedStyle(document.querySelector('.tile .lines')).display"
    wide = "document.documentElement.scrollWidth <= innerWidth"
    found = tab.steps(
        ("go", f"{address}images?class=eosinophil&run=run-low"),
        ("read", "document.querySelector('[name=blur_max]').value = '0.012'"),
        ("click", "form button"), ("read", TILES), ("read", wide),
        ("read", hidden),
        ("read", "document.querySelector('#lines').click(), " + hidden),
    )  # fmt: skip
    assert found[1:] == [3, True, "block", "none"]


def test_two_runs_are_compared_in_the_browser(address, tab):
    pairs = "document.querySelectorAll('.two').length"
    found = tab.steps(
        ("go", f"{address}compare?a.run=run-low&b.run=run-high"), ("read", pairs), ("read", BROKEN)
    )
    assert found == [20, 0]


def test_markup_in_rows_runs_nothing_in_the_browser(address, tab):
    dom = "document.documentElement.outerHTML"
    image = f"{address}image/run-evil/{sample_row(0, recipe='evil')['image_id']}"
    styled = "getComputedStyle(document.querySelector('nav')).display"
    for page in (address, image, f"{address}gates", f"{address}images?class={EVIL}"):
        text, shown = tab.steps(("go", page), ("read", dom), ("read", styled))
        assert "<script>alert" not in text
        assert "<img src=x" not in text.replace('"', "")
        assert shown == "flex"  # the style sheet passes the policy
    assert tab.alerts == []
