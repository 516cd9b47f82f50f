"""Who may ask, how, and under which name; and that text from rows never becomes markup."""

import json
import re
from html.parser import HTMLParser

import pytest

from catalog import record_model, record_run
from catalog.gallery.guard import COOKIE, HEADERS, is_loopback
from catalog.gallery.serve import TOKEN_VARIABLE, listening, token_for
from catalog.results import record_evaluation
from factory.errors import CatalogError
from tests.fakes.gallery import client_of, evaluation_row, publish, score_row
from tests.fakes.rows import model_row, run_row, sample_row

TOKEN = "a token that nobody guesses"
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"' {{ 7*7 }}"


@pytest.mark.parametrize(
    "address",
    ["/", "/nothing", "/images?clas=1", "/static/gallery.css", "/static/gallery.js", "/runs"],
)
def test_every_answer_carries_the_headers(client, address):
    headers = client.get(address).headers
    for name, value in HEADERS.items():
        if name != "cache-control":
            assert headers.get_list(name) == [value]
    assert headers["cache-control"].startswith("private")
    assert "access-control-allow-origin" not in headers
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_looking_is_allowed(client, method):
    answer = client.request(method, "/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.headers["x-frame-options"] == "DENY"


def test_head_answers_without_a_body(client):
    answer = client.head("/runs")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.5", 421),
        ("", 421),
    ],
)
def test_a_foreign_host_name_is_refused(client, host, status):
    answer = client.get("/runs", headers={"host": host})
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_another_site_cannot_make_the_browser_run_sql(client):
    cross = {"sec-fetch-site": "cross-site"}
    assert client.get("/images?where=1=1", headers=cross).status_code == 403
    assert client.get("/compare?a.where=1=1", headers=cross).status_code == 403
    assert client.get("/images?class=monocyte", headers=cross).status_code == 200


def test_a_token_is_asked_once_and_then_a_cookie_will_do(uri):
    client = client_of(uri, token=TOKEN, host="0.0.0.0")
    assert client.get("/").status_code == 401
    assert client.get("/static/gallery.css").status_code == 401
    assert client.get("/images", params={"token": TOKEN[:-1]}).status_code == 401
    answer = client.get("/images", params={"token": TOKEN, "class": "monocyte"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/images?class=monocyte")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly; SameSite=Strict; Path=/" in cookie
    assert TOKEN not in cookie
    mark = cookie.split(";")[0].partition("=")[2]
    assert client.get("/", headers={"cookie": f"{COOKIE}={mark}"}).status_code == 200
    client.cookies.clear()
    for wrong in (TOKEN, mark[:-1], "", "\xe9"):
        header = f"{COOKIE}={wrong}".encode("latin1")
        assert client.get("/", headers={"cookie": header}).status_code == 401


def test_a_token_never_leads_elsewhere(uri):
    client = client_of(uri, token=TOKEN)
    for path in ("//evil.example/", "/\\evil.example/"):
        answer = client.get(f"http://127.0.0.1:8080{path}", params={"token": TOKEN})
        assert answer.status_code == 303
        assert re.match(r"/[^/\\]", answer.headers["location"] + "x")


def test_under_a_public_address_its_own_names_and_bare_addresses_are_answered(uri):
    client = client_of(uri, token=TOKEN, host="0.0.0.0")
    for host, status in (("10.0.0.5:8080", 401), ("evil.example", 421)):
        assert client.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_token(host):
    assert is_loopback(host)
    assert token_for(host, None, {}) is None
    assert token_for(host, None, {TOKEN_VARIABLE: TOKEN}) == TOKEN


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gallery.example", ""])
def test_any_other_address_needs_one(host, tmp_path):
    with pytest.raises(CatalogError, match=r"no token.*secrets.token_urlsafe.*leave --host"):
        token_for(host, None, {})
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert token_for(host, file, {TOKEN_VARIABLE: "another that is long enough"}) == TOKEN


def test_a_token_that_is_none_is_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for file, environment, message in (
        (empty, {}, "is empty"),
        (tmp_path / "nowhere", {}, "cannot be read"),
        (None, {TOKEN_VARIABLE: "short"}, "has 5 characters"),
    ):
        with pytest.raises(CatalogError, match=message):
            token_for("127.0.0.1", file, environment)


class Tags(HTMLParser):
    """The tags and event attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.events, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.events += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.links += [v for k, v in attrs if k in ("href", "src", "action")]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The pages of a catalog with markup in every text that anyone can put into one."""
    uri = tmp_path_factory.mktemp("hostile") / EVIL.replace("/", "_")
    names = [f"{EVIL}{n}" for n in range(5)]
    texts = ("scheduler", "model_id", "base_model_id", "adapter_id", "split_digest", "method",
             "dataset_fingerprint", "prompt", "negative_prompt", "guidance_terms", "engine",
             "recipe_digest", "code_version", "pixel_sha256")  # fmt: skip
    changes = dict.fromkeys(texts, EVIL) | {
        "class_name": EVIL,
        "class_names": names,
        "recipe": json.dumps({"prompt": EVIL}),
        "reference_ids": [EVIL],
        "gate_status": "rejected",
        "gate_reasons": [f"{EVIL}: {EVIL}", f"copy: 0.1 of it, to {EVIL}"],
    }
    publish(uri, "run-1", 2, **changes)
    record_run(uri, run_row("run-1", 1, message=EVIL, config=EVIL, environment=EVIL,
                            code_version=EVIL, rejected_by_gate=json.dumps({EVIL: 2})))  # fmt: skip
    record_model(uri, model_row(name=EVIL, card=EVIL, licence=EVIL, config=EVIL, method=EVIL))
    row = evaluation_row(verdicts=json.dumps({EVIL: f"{EVIL} helps"}), model_ids=[EVIL], name=EVIL)
    record_evaluation(
        uri, row | {"task": EVIL, "config": EVIL, "baseline": EVIL}, [score_row(EVIL)]
    )
    return client_of(uri, data="nowhere")


PAGES = ["/", "/images", "/gates", "/runs", "/models", "/evaluations", "/releases", "/compare",
         f"/image/run-1/{sample_row(0)['image_id']}"]  # fmt: skip


@pytest.mark.parametrize(
    "page", [*PAGES, f"/images?class={EVIL}", f"/images?{EVIL}=1", f"/images?where={EVIL}"]
)
def test_markup_in_rows_and_addresses_is_only_text(hostile, page):
    text = hostile.get(page).text
    found = Tags(text)
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert [list(attributes) for attributes in scripts] == [["src", "defer"]]
    assert not found.events
    assert all(link.startswith(("/", "#", "?", "data:")) for link in found.links), found.links
    assert "onerror=alert(1)>" not in text


def test_an_address_that_is_taken_is_named():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CatalogError, match=f"127.0.0.1:{port} .*Choose another --port"):
            listening("127.0.0.1", port)
