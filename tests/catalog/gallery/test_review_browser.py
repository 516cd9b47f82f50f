"""A review in a real browser: by keys, by thumb, without a script's help where one types."""

from datetime import UTC, datetime

import pytest

from catalog import Catalog, Review, record_review, sql
from catalog.gallery.app import application
from catalog.gallery.index import Index
from catalog.gallery.review_pages import Reviewing
from tests.catalog.gallery.test_guard import EVIL
from tests.fakes.accessible import axe, faults
from tests.fakes.browser import browser, needs_chromium
from tests.fakes.gallery import catalog_at, served
from tests.fakes.rows import sample_row

pytestmark = [pytest.mark.slow, needs_chromium]

NOW = datetime(2026, 11, 24, tzinfo=UTC)
TOKEN = "a-token-that-nobody-guesses"
START = "review?status=accepted&reviewer=Ada"
PROGRESS = "document.querySelector('.review-head b').innerText"
FOCUS = "document.activeElement.name || document.activeElement.tagName"


@pytest.fixture
def uri(tmp_path):
    return catalog_at(tmp_path / "catalog", 10)


@pytest.fixture
def address(uri):
    how = Reviewing(code_version="0.1.0")
    with served(application(Index(str(uri)), token=TOKEN, reviewing=how)) as found:
        yield found


@pytest.fixture
def tab(address):
    with browser() as opened:
        opened.steps(("go", f"{address}?token={TOKEN}"))
        yield opened


def verdicts(uri):
    text = "SELECT verdict, reason FROM review_events ORDER BY reviewed_at"
    return [tuple(row.values()) for row in sql(Catalog(uri), text).to_pylist()]


def test_keys_accept_reject_skip_and_undo(uri, address, tab):
    steps = [("look", "1280 light"), ("go", f"{address}{START}"), ("read", PROGRESS)]
    for key in ("a", "r", "s", "u"):
        steps += [("press", key), ("read", PROGRESS)]
    assert tab.steps(*steps) == [f"{n} of 18" for n in (0, 1, 2, 2, 1)]
    assert verdicts(uri) == [("accepted", None), ("rejected", None), ("withdrawn", None)]


def test_letters_of_a_reason_are_no_verdict_and_enter_sends_none(uri, address, tab):
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'w', bubbles: true}))"
    where = "const i = document.querySelector('[name=reason]');"
    typed = f"(() => {{ {where} i.value = 'are'; for (const key of 'ar') i.dispatchEvent("
    typed += "new KeyboardEvent('keydown', {key, bubbles: true})); return location.search; })()"
    sends = f"(() => {{ {where} return i.form.querySelector('button').disabled; }})()"
    body = press.replace("document.dispatch", "document.body.dispatch")
    steps = (("look", "390 dark"), ("go", f"{address}{START}"), ("read", f"({body}, {FOCUS})"))
    focus, search, no_default = tab.steps(*steps, ("read", typed), ("read", sends))
    assert (focus, no_default) == ("reason", True)
    assert search == "?status=accepted&reviewer=Ada"
    tab.steps(("click", "button.bad"))
    assert verdicts(uri) == [("rejected", "are")]


def pages_of(uri, address):
    """Addresses of a review's pages, with verdicts of two on one image; one's name is hostile."""
    image_id = sample_row(0)["image_id"]
    for name, verdict in (("Ada", "accepted"), (EVIL[:80], "rejected")):
        review = Review(image_id=image_id, verdict=verdict, reviewer=name, reason="a reason",
                        run_id="run-low", pixel_sha256="00")  # fmt: skip
        record_review(uri, review, now=NOW, code_version="0.1.0")
    key = f"run-low/{image_id}"
    pages = ("review?status=accepted", START, f"{START}&image={key}", "reviews", f"image/{key}",
             "review?class=none&reviewer=Ada", "images", "review?no=1")  # fmt: skip
    return [f"{address}{page}" for page in pages]


def test_every_page_of_a_review_can_be_read_and_used(uri, address, tab):
    assert faults(tab, pages_of(uri, address)) == {}
    assert tab.alerts == []


def test_axe_finds_nothing_serious_in_a_review(uri, address, tab):
    assert faults(tab, pages_of(uri, address), axe()) == {}
