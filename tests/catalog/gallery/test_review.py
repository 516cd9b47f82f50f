"""`/review`: what reviewers say is written once and never over, and nobody else writes anything."""

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import urlencode

import pytest

from catalog import Catalog, Review, record_review, sql
from catalog.gallery.app import application
from catalog.gallery.guard import COOKIE, HEADERS, MOST_BYTES, Guard
from catalog.gallery.index import Index
from catalog.gallery.review_pages import Reviewing
from catalog.gallery.serve import TOKEN_VARIABLE, token_to_write
from catalog.tombstones import Mark, record_tombstones
from factory.errors import CatalogError
from factory.real.smear import write_smear
from tests.catalog.gallery.test_guard import EVIL, TOKEN, Tags
from tests.catalog.gallery.test_serve import heeding
from tests.fakes.gallery import catalog_at, client_of, publish, served
from tests.fakes.rows import STARTED, sample_row

NOW = datetime(2026, 11, 24, tzinfo=UTC)
OWN = {"origin": "http://127.0.0.1:8080"}
FORM = "application/x-www-form-urlencoded"


def ticking():
    """A clock that goes on a second at a time."""
    ticks = iter(range(10**6))
    return lambda: NOW + timedelta(seconds=next(ticks))


def reviewing(**how):
    return Reviewing(code_version="0.1.0", now=ticking(), **how)


def reviewer_of(uri, *, data=None, **how):
    """A browser of a review that has come in with the token."""
    client = client_of(uri, token=TOKEN, data=data, reviewing=reviewing(**how))
    client.get("/review", params={"token": TOKEN})
    return client


@pytest.fixture
def uri(tmp_path):
    return catalog_at(tmp_path / "catalog", 10)


def page(client, address="/review?status=accepted&reviewer=Ada"):
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return answer.text


def fields(text, number=0):
    """The address and the hidden fields of a form of a page."""
    form = text.split('<form method="post"')[1 + number].split("</form>")[0]
    action = unescape(re.search(r'action="([^"]*)"', form)[1])
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
    return action, {name: unescape(value) for name, value in hidden.items()}


def say(client, text, verdict, reason="", number=0, **headers):
    """Post what a form of a page posts; return the answer."""
    action, form = fields(text, number)
    form |= {"verdict": verdict, "reason": reason}
    return client.post(action, data=form, headers=OWN | headers)


def rows(uri, text="SELECT * FROM review_events ORDER BY reviewed_at"):
    return sql(Catalog(uri), text).to_pylist()


def test_one_image_after_the_other_until_all_have_a_verdict(uri):
    client = reviewer_of(uri)
    first = client.get("/review?reviewer=Ada")
    assert (first.status_code, first.headers["location"]) == (
        303, "/review?status=accepted&reviewer=Ada")  # fmt: skip
    text, seen = page(client), []
    for number in range(18):
        assert f"<b>{number} of 18</b>" in text
        seen.append(fields(text)[1]["image"])
        answer = say(client, text, "accepted" if number % 3 else "rejected", f"reason {number}")
        assert answer.status_code == 303
        text = page(client, answer.headers["location"])
    assert len(set(seen)) == 18  # none twice, none left out
    assert "All 18 images have your verdict" in text
    assert "review = 'accepted'" in text
    found = rows(uri)
    assert [f"{row['run_id']}/{row['image_id']}" for row in found] == seen
    assert [row["reason"] for row in found] == [f"reason {n}" for n in range(18)]
    assert {(row["reviewer"], row["is_blind"], row["code_version"]) for row in found} == {
        ("Ada", False, "0.1.0")}  # fmt: skip
    own = {row["image_id"]: row["pixel_sha256"] for row in rows(uri, "FROM samples")}
    assert all(own[row["image_id"]] == row["pixel_sha256"] for row in found)


def test_a_skipped_image_comes_again_at_the_end_and_everyone_has_the_same_order(uri):
    client = reviewer_of(uri)
    text = page(client, "/review?run=run-low&class=monocyte&status=accepted&reviewer=Ada")
    first = fields(text)[1]["image"]
    skip = unescape(re.search(r'class="button" href="([^"]*)"', text)[1])
    text = page(client, skip)
    second = fields(text)[1]["image"]
    assert second != first
    text = page(client, say(client, text, "accepted").headers["location"])
    assert fields(text)[1]["image"] == first
    other = page(client, "/review?run=run-low&class=monocyte&status=accepted&reviewer=Ben")
    assert fields(other)[1]["image"] == first


def test_undo_shows_the_image_again_and_leaves_a_trace(uri):
    client = reviewer_of(uri, reviewer="Ada")
    text = page(client, "/review?status=accepted")
    said = fields(text)[1]["image"]
    text = page(client, say(client, text, "rejected", "two nuclei").headers["location"])
    assert "rejected, two nuclei" in text
    answer = say(client, text, "withdrawn", number=1)
    text = page(client, answer.headers["location"])
    assert fields(text)[1]["image"] == said
    assert "<b>0 of 18</b>" in text
    say(client, text, "accepted")
    assert [row["verdict"] for row in rows(uri)] == ["rejected", "withdrawn", "accepted"]
    assert [row["event"] for row in rows(uri)] == [0, 1, 2]
    assert rows(uri, "SELECT verdict FROM reviews") == [{"verdict": "accepted"}]


def test_what_others_say_is_shown_only_beside_ones_own_verdict(uri):
    client = reviewer_of(uri)
    text = page(client)
    key = fields(text)[1]["image"]
    say(client, text, "rejected", "smudge")
    before = page(client, f"/review?status=accepted&reviewer=Ben&image={key}")
    assert "smudge" not in before
    say(client, before, "accepted")
    after = page(client, f"/review?status=accepted&reviewer=Ben&image={key}")
    assert "Ada: rejected, smudge" in after
    assert "You said: accepted" in after
    everything = page(client, "/reviews")
    for part in ("disputed", "Ada: rejected, smudge", "Ben: accepted", "kappa"):
        assert part in everything
    image = page(client, f"/image/{key}")
    assert "smudge" in image
    disputed = client.get("/images?review=disputed").text
    assert f"/image/{key}" in disputed
    assert disputed.count('class="tile ') == 1
    assert client.get("/images?review=none").text.count('class="tile ') == 19
    assert client.get("/images?review=maybe").status_code == 400


def test_a_condition_that_was_shown_before_follows_what_is_said(uri):
    client = reviewer_of(uri, reviewer="Ada")
    shown = "/images?where=review = 'accepted'"
    assert client.get(shown).text.count('class="tile ') == 0
    text = page(client, "/review?status=accepted")
    for count in (1, 2):
        text = page(client, say(client, text, "accepted").headers["location"])
        client.get("/images")
        assert client.get(shown).text.count('class="tile ') == count


def test_a_blind_review_shows_no_score_no_gate_and_no_other_page(uri, tmp_path):
    write_smear(tmp_path / "real", 4, seed=0, size_px=32)
    client = reviewer_of(uri, data=str(tmp_path / "real"), is_blind=True)
    text = page(client, "/review?reviewer=Ada")
    assert "of 20</b>" in text  # rejected ones are among them
    for word in ("gate", "blur", "accepted</span>", "score", "/image/"):
        assert word not in re.sub(r"Scores, gates and what others said[^<]*", "", text), word
    assert "/real/" in text
    assert client.get("/").headers["location"] == "/review"
    for address in ("/images", "/gates", "/reviews", "/map", f"/image/{fields(text)[1]['image']}"):
        assert client.get(address).status_code == 404
    assert client.get(f"/picture/{fields(text)[1]['image']}/image.png").status_code == 200
    for leading in ("status=rejected", "blur_min=0.1", "where=true", "review=disputed"):
        assert client.get(f"/review?reviewer=Ada&{leading}").status_code == 400
    assert say(client, text, "accepted", "round").status_code == 303
    assert rows(uri)[0]["is_blind"] is True
    again = f"/review?reviewer=Ben&image={fields(text)[1]['image']}"
    say(client, page(client, again), "rejected")
    assert "You said: rejected" in page(client, again)
    assert "round" not in page(client, again)


def test_names_and_reasons_are_only_text(uri):
    client = reviewer_of(uri)
    address = f"/review?{urlencode({'status': 'accepted', 'reviewer': EVIL})}"
    text = page(client, address)
    key = fields(text)[1]["image"]
    say(client, text, "rejected", EVIL)
    for shown in (address, f"{address}&image={key}", "/reviews", f"/image/{key}", "/review"):
        text = client.get(shown, follow_redirects=True).text
        found = Tags(text)
        assert not found.events
        assert all(list(a) == ["src", "defer"] for tag, a in found.tags if tag == "script")
        assert all(link.startswith(("/", "#", "?", "data:")) for link in found.links), found.links
        assert "onerror=alert(1)>" not in text


def hostile(text):
    """(how the request differs, status) of what is refused."""
    _, form = fields(text)
    form |= {"verdict": "accepted"}
    return [
        ({"headers": {}}, 403),  # a browser says where a form comes from
        ({"headers": {"origin": "http://evil.example"}}, 403),
        ({"headers": {"origin": "null"}}, 403),
        ({"headers": {"origin": "http://[", "sec-fetch-site": "same-origin"}}, 403),
        ({"headers": OWN | {"sec-fetch-site": "cross-site"}}, 403),
        ({"headers": OWN | {"sec-fetch-site": "same-site"}}, 403),
        ({"headers": OWN | {"host": "evil.example"}}, 421),
        ({"headers": OWN | {"cookie": f"{COOKIE}=no"}}, 401),
        ({"url": f"/review?token={TOKEN}"}, 303),  # comes in, and says nothing
        ({"url": "/review?status=odd&no=1"}, 400),
        ({"url": "/images"}, 405),
        ({"url": "/review/"}, 405),
        ({"method": "PUT"}, 405),
        ({"method": "DELETE"}, 405),
        ({"data": form | {"mark": "no"}}, 403),
        ({"data": form | {"mark": "\u00e9"}}, 403),
        ({"data": form | {"verdict": "perhaps"}}, 400),
        ({"data": form | {"verdict": ["accepted", "rejected"]}}, 400),
        ({"data": form | {"image": ["a/b", form["image"]]}}, 400),
        ({"data": form | {"more": "1"}}, 400),
        ({"data": {k: v for k, v in form.items() if k != "image"}}, 400),
        ({"data": form | {"image": "run-low/nobody"}}, 404),
        ({"data": form | {"image": "../../etc/passwd"}}, 404),
        ({"data": form | {"reviewer": "A" * 81}}, 400),
        ({"data": form | {"reviewer": "Ada\r\nBen"}}, 400),
        ({"data": form | {"reviewer": ""}}, 400),
        ({"data": form | {"reason": "x" * 501}}, 400),
        ({"data": form | {"reason": "\u202egnp.exe"}}, 400),
        ({"data": form | {"reason": "x" * MOST_BYTES}}, 413),
        ({"content": b"\xff\xfe", "type": FORM}, 400),
        ({"content": b"verdict=%ff&image=a&mark=b", "type": FORM}, 400),
        ({"content": b"", "type": FORM}, 400),
        ({"content": b"{}", "type": "application/json"}, 415),
        ({"content": iter([b"verdict=accepted"]), "type": FORM}, 411),
    ]


def test_what_is_no_verdict_from_this_very_page_is_refused_and_writes_nothing(uri):
    client = reviewer_of(uri)
    text = page(client)
    action, form = fields(text)
    for changes, status in hostile(text):
        kind = {"content-type": changes["type"]} if "type" in changes else {}
        body = {"content": changes["content"]} if "content" in changes else {
            "data": changes.get("data", form | {"verdict": "accepted"})}  # fmt: skip
        answer = client.request(
            changes.get("method", "POST"), changes.get("url", action),
            headers=changes.get("headers", OWN) | kind, **body,
        )  # fmt: skip
        assert answer.status_code == status, (changes, answer.text)
        assert answer.headers["x-frame-options"] == HEADERS["x-frame-options"]
        assert not (uri / "reviews").exists(), changes
    assert say(client, text, "accepted", **{"sec-fetch-site": "same-origin"}).status_code == 303


def test_a_gallery_takes_no_verdict_and_a_review_no_visitor_without_the_token(uri):
    only_shows = client_of(uri, token=TOKEN)
    only_shows.get("/", params={"token": TOKEN})
    answer = only_shows.post("/review", data={"verdict": "accepted"}, headers=OWN)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert only_shows.get("/review").status_code == 404
    assert "Nobody has said anything" in only_shows.get("/reviews").text
    stranger = client_of(uri, token=TOKEN, reviewing=reviewing())
    assert stranger.get("/review").status_code == 401
    assert stranger.post("/review", data={"verdict": "accepted"}, headers=OWN).status_code == 401
    with pytest.raises(ValueError, match="asks for a token"):
        client_of(uri, reviewing=reviewing())
    with pytest.raises(ValueError, match="asks for a token"):
        Guard(lambda *_: None, host="127.0.0.1", token=None, posts=["/review"])


def test_a_server_of_one_reviewer_takes_no_other_name(uri):
    client = reviewer_of(uri, reviewer="Ada")
    action, form = fields(page(client, "/review?status=accepted&reviewer=Ben"))
    assert form["reviewer"] == "Ada"
    answer = client.post(action, data=form | {"reviewer": "Ben", "verdict": "accepted"},
                         headers=OWN)  # fmt: skip
    assert answer.status_code == 400
    assert "not of &#39;Ben&#39;" in answer.text


def test_a_token_is_asked_for_on_loopback_too(tmp_path):
    with pytest.raises(CatalogError, match=r"no token to ask them for.*secrets.token_urlsafe"):
        token_to_write("127.0.0.1", None, {})
    assert token_to_write("127.0.0.1", None, {TOKEN_VARIABLE: TOKEN}) == TOKEN


def test_two_browsers_at_once_over_http_and_a_verdict_from_elsewhere_all_land(uri):
    how = reviewing()
    with served(application(Index(str(uri)), token=TOKEN, reviewing=how)) as address:
        origin = address.rstrip("/")

        def asked(path, cookie="", data=None):
            headers = {"cookie": cookie, "origin": origin} if cookie else {}
            body = None if data is None else urlencode(data).encode()
            request = urllib.request.Request(origin + path, data=body, headers=headers)
            try:
                with opener.open(request, timeout=900) as answer:
                    return answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.headers.get("set-cookie", "").split(";")[0]

        class Stays(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        opener = urllib.request.build_opener(Stays)
        cookie = asked(f"/?token={TOKEN.replace(' ', '%20')}")
        follows = urllib.request.build_opener()

        def judge(name):
            for _ in range(5):
                text = asked(f"/review?status=accepted&reviewer={name}", cookie)
                action, form = fields(text)
                request = urllib.request.Request(
                    origin + action, urlencode(form | {"verdict": "accepted"}).encode(),
                    {"cookie": cookie, "origin": origin},
                )  # fmt: skip
                with follows.open(request, timeout=900) as answer:
                    assert answer.status == 200

        threads = [threading.Thread(target=judge, args=(name,)) for name in ("Ada", "Ben")]
        for thread in threads:
            thread.start()
        key = fields(asked("/review?status=accepted&reviewer=Cem", cookie))[1]["image"]
        review = Review(image_id=key.split("/")[1], verdict="rejected", reviewer="Cem",
                        run_id="run-low", pixel_sha256="00")  # fmt: skip
        record_review(uri, review, now=NOW, code_version="0.1.0")
        for thread in threads:
            thread.join()
        assert "<b>1 of 18</b>" in asked("/review?status=accepted&reviewer=Cem", cookie)
    counts = rows(uri, "SELECT reviewer, count(*) AS n FROM reviews GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in counts] == [("Ada", 5), ("Ben", 5), ("Cem", 1)]
    assert len(rows(uri)) == 11


def test_an_image_of_two_runs_is_asked_about_once_and_a_forgotten_one_never(tmp_path):
    uri = catalog_at(tmp_path / "catalog", 4)
    publish(uri, "run-again", 4, created_at=STARTED + timedelta(hours=2))  # those of run-low
    gone = Mark(kind="image", target_id=sample_row(3)["image_id"], because="train")
    record_tombstones(uri, "a-patient", [gone], now=NOW, code_version="0.1.0")
    client = reviewer_of(uri, reviewer="Ada")
    text = page(client, "/review?status=accepted")
    assert "<b>0 of 7</b>" in text
    form = fields(text)[1] | {"image": f"run-low/{gone.target_id}", "verdict": "accepted"}
    assert client.post("/review", data=form, headers=OWN).status_code == 404
    for _ in range(7):
        text = page(client, say(client, text, "accepted").headers["location"])
    assert "All 7 images" in text
    assert {row["run_id"] for row in rows(uri)} == {"run-low", "run-high"}


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c_and_says_what_is_next(uri, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from factory.cli import main; main()"
    words = ["review", "--catalog", uri, "--port", port, "--token-file", tmp_path / "token"]
    command = [sys.executable, "-c", code, *map(str, words), "--reviewer", "Ada  Okafor"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipe, preexec_fn=heeding) as server:
        try:
            first, second = server.stdout.readline(), server.stdout.readline()
            assert "/review?token=TOKEN" in first
            assert f"20 images at http://127.0.0.1:{port}/review" in second
            assert TOKEN not in first + second
            cookies = urllib.request.HTTPCookieProcessor()
            browser = urllib.request.build_opener(cookies)
            query = urlencode({"token": TOKEN})
            with browser.open(f"http://127.0.0.1:{port}/review?{query}", timeout=900) as answer:
                action, form = fields(answer.read().decode())
            body = urlencode(form | {"verdict": "rejected"}).encode()
            post = urllib.request.Request(f"http://127.0.0.1:{port}{action}", body,
                                          {"origin": f"http://127.0.0.1:{port}"})  # fmt: skip
            browser.open(post, timeout=900).close()
            server.send_signal(signal.SIGINT)
            told = server.communicate(timeout=900)[1]
        finally:
            server.kill()
    assert server.returncode == 130
    assert (
        f"catalog sql 'SELECT review, count(*) FROM samples GROUP BY ALL' --catalog {uri}" in told
    )
    (row,) = rows(uri)
    assert (row["reviewer"], row["verdict"]) == ("Ada Okafor", "rejected")
