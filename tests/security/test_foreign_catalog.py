"""A catalog of somebody who means harm through every command that reads one, and the gallery.

Whatever its rows, conditions, versions, paths and log say: nothing is written outside the place
that was asked for, no raw control character is printed, and errors are ours.
"""

import re
import shutil
import struct
import sys
import zlib
from html import unescape
from urllib.parse import quote

import pytest

from catalog import Catalog, SampleSink, batch, write_batch
from catalog.boundary import file_name
from catalog.export.formats import FORMATS
from catalog.schema import SAMPLES
from factory.cli import main
from factory.models.generator import Generator
from tests.fakes.gallery import client_of
from tests.fakes.hostile import (
    BOMB,
    HUGE,
    NAMES,
    TITLE,
    acting,
    hostile_catalog,
    with_log,
    with_release,
)
from tests.fakes.rows import rows_table, sample_row


class Place:
    """A folder to stand in, one to write to, and everything around them watched."""

    def __init__(self, root, monkeypatch, capfd):
        self.root, self.monkeypatch, self.capfd = root, monkeypatch, capfd
        self.out, self.here = root / "deep" / "out", root / "deep" / "here"
        self.here.mkdir(parents=True)
        (root / "elsewhere").mkdir()
        monkeypatch.chdir(self.here)

    def tree(self, *allowed):
        found = {}
        for path in self.root.rglob("*"):
            if not any(path.is_relative_to(place) for place in allowed):
                found[path] = path.read_bytes() if path.is_file() else None
        return found

    def run(self, *words, allowed=(), codes=(0, 1)):
        """Run a command; return what it printed."""
        allowed = (self.out, *allowed)
        before = self.tree(*allowed)
        self.monkeypatch.setattr(sys, "argv", ["factory", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        told = "".join(self.capfd.readouterr())
        assert self.tree(*allowed) == before
        assert not acting(told), sorted(acting(told))
        assert code in codes, told
        assert "Traceback" not in told
        return told


@pytest.fixture
def place(tmp_path, monkeypatch, capfd):
    return Place(tmp_path, monkeypatch, capfd)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    return hostile_catalog(root / "catalog", root / "elsewhere")


@pytest.fixture
def uri(made, tmp_path):
    """A copy, which commands that write a catalog may change."""
    return shutil.copytree(made, tmp_path / "catalog")


WORDS = [
    ["catalog", "sql", "SELECT * EXCLUDE (image, mask) FROM samples"],
    ["catalog", "sql", "SELECT class_name, prompt FROM samples", "--csv"],
    ["catalog", "sql", "SELECT * EXCLUDE (image, mask) FROM samples", "--json"],
    ["catalog", "sql", f"SELECT 1 AS \"a{TITLE}b\", 'x{TITLE}' AS c"],
    ["catalog", "sql", f"SELECT {TITLE}"],
    ["catalog", "sql", "SELECT card, message FROM models, runs"],
    ["catalog", "sql", "SELECT image_id FROM samples", "--timeout", "60", "--csv"],
    ["catalog", "history"],
    ["catalog", "strip", NAMES[2], "--out", "{out}/strip.png"],
    ["catalog", "strip", f"none{TITLE}", "--out", "{out}/strip.png"],
    ["catalog", "sheet", "--out", "{out}/sheet.png"],
    ["catalog", "sheet", "--where", f"class_name = '{TITLE}'", "--out", "{out}/sheet.png"],
    ["lineage", NAMES[2]],
    ["lineage", NAMES[5], "--json"],
    ["lineage", "model-a"],
    ["lineage", f"none{TITLE}"],
    ["forget", NAMES[2]],
    ["forget", NAMES[5], "--confirm", "--json"],
    ["runs"],
    ["runs", "--json"],
    ["generate", "--resume", "run-1"],
    ["generate", "--resume", NAMES[5]],
    ["release", "create", "wbc"],
    ["release", "create", NAMES[5]],
    ["release", "list"],
    ["release", "show", NAMES[5]],
    ["catalog", "optimize"],
    ["catalog", "vacuum", "--retain-days", "0", "--delete"],
    ["regenerate", "--sample", "100%", "--out", "{out}"],
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words)[:40])
def test_every_command_prints_and_writes_nothing_that_acts(place, uri, words):
    named = [word.format(out=place.out) if word.startswith("{out}") else word for word in words]
    place.run(*named, "--catalog", uri, allowed=[uri])


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_image_is_shown_under_a_name_of_our_own(place, uri, name):
    told = place.run("catalog", "show", "--catalog", uri, "--", name, allowed=[place.here],
                     codes=[0])  # fmt: skip
    made = {path.name for path in place.here.iterdir()}
    assert made == {f"{file_name(name)}.png", f"{file_name(name)}-mask.png"}
    lines = [line for line in told.splitlines() if not line.startswith("next ")]
    assert len(lines) == len(SAMPLES.names) + 1  # the run is in the path; two files


@pytest.mark.parametrize("form", list(FORMATS))
def test_an_export_stays_where_it_was_asked_for(place, uri, form):
    told = place.run("export", form, "--catalog", uri, "--out", place.out)
    if "error" not in told:
        assert {path.name for path in place.out.parent.iterdir()} == {"out", "here"}


def test_redrawn_images_stay_where_they_were_asked_for(place, tiny: Generator):
    """Rows that can be redrawn, under ids that lead elsewhere: PWN3 of the review."""
    from factory.sample.batches import draw_here
    from factory.sample.config import GenerateConfig
    from factory.sample.prepare import prepare
    from factory.sample.run import execute

    config = GenerateConfig(model=str(tiny.folder), num_images=4, batch_size=4, seed=1)
    config = config.model_copy(update={"num_inference_steps": 1})
    list(execute(prepare(config, str(place.root / "good")), stream=draw_here))
    rows = Catalog(place.root / "good").samples().to_table().drop(["run_id", "batch_index"])
    uri = hostile_catalog(place.root / "evil", place.root / "elsewhere", rows.to_pylist())
    ids = [*NAMES, str(place.root / "elsewhere" / "PWN")]
    told = place.run("regenerate", "--sample", "100%", "--catalog", uri, "--out", place.out,
                     "--model", tiny.folder, "--allow-tier", "any", codes=[0])  # fmt: skip
    outcomes = [line for line in told.splitlines() if line.endswith("  identical")]
    assert len(outcomes) == len(ids)
    assert {path.name for path in place.out.iterdir()} == {f"{file_name(i)}.png" for i in ids}
    place.run("regenerate", "--catalog", uri, "--out", place.out, "--model", tiny.folder,
              "--", NAMES[2], codes=[0, 1])  # fmt: skip


def test_a_study_of_its_images_is_refused_in_words_that_do_not_act(place, uri):
    real, split = place.here / "real", place.here / "split.json"
    place.run("real", "smear", "--out", real, "-n", "40", allowed=[place.here])
    place.run("real", "split", real, "--out", split, allowed=[place.here])
    told = place.run("evaluate", "--data", real, "--split", split, "--catalog", uri, "--output",
                     place.out, "--without-ray", allowed=[uri], codes=[1])  # fmt: skip
    assert "which the real images do not have" in told


def test_a_run_into_it_writes_below_it_alone(place, uri, tiny: Generator):
    from factory.sample.batches import draw_here
    from factory.sample.config import GenerateConfig
    from factory.sample.prepare import prepare
    from factory.sample.run import execute

    before = place.tree(uri)
    config = GenerateConfig(model=str(tiny.folder), num_images=2, batch_size=2, seed=1)
    config = config.model_copy(update={"num_inference_steps": 1})
    list(execute(prepare(config, str(uri)), stream=draw_here))
    assert place.tree(uri) == before
    assert Catalog(uri).samples().count_rows() == len(NAMES) + 3


def _claiming(side: int) -> bytes:
    """A PNG of a few bytes that claims `side` x `side` pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"\0\0\0\x0d" + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "png",
    [_claiming(2**16), _claiming(9000), _claiming(8), b"GIF89a", b"", b"\x89PNG\r\n\x1a\n\0"],
    ids=["bomb", "large", "cut off", "another format", "empty", "broken"],
)
def test_a_picture_that_is_none_is_named_by_all_that_would_open_it(place, uri, png):
    place.monkeypatch.setattr(batch, "_check_values", lambda *_: None)  # theirs is another writer
    row = sample_row(99) | {"class_name": "odd", "image": {"bytes": png, "path": "x.png"}}
    file = write_batch(uri, run_id="run-1", batch_index=9, rows=rows_table([row]))
    SampleSink(uri, "run-1").commit([file])
    key = place.here / "key"
    key.write_bytes(bytes(range(32)))
    odd = ["--where", "class_name = 'odd'"]
    for words in (
        ["catalog", "sheet", *odd, "--out", place.out / "sheet.png"],
        ["export", "dicom", *odd, "--out", place.out / "dicom"],
        ["export", "csv", *odd, "--mark", "watermark", "--watermark-key", key,
         "--out", place.out / "marked"],
    ):  # fmt: skip
        assert "no readable PNG" in place.run(*words, "--catalog", uri, allowed=[uri], codes=[1])


RELEASES = {
    "bomb": {"where": "1 = 1"},
    "huge version": {"catalog_version": HUGE},
    "huge tombstones": {"tombstone_version": HUGE},
    "huge reviews": {"review_version": HUGE},
    "no counts": {"class_counts": TITLE},
    "counts that are none": {"class_counts": '{"a": "b"}'},
    "endless file": {"path": "../../../../../../../../../../dev/zero"},
    "no condition": {"condition": "1) UNION SELECT (1"},
    "names": {"reason": TITLE, "model_ids": list(NAMES), "code_version": TITLE},
}


@pytest.mark.parametrize("changes", RELEASES.values(), ids=RELEASES)
def test_a_release_of_others_is_read_or_refused(place, uri, changes):
    with_release(uri, **{k: v for k, v in changes.items() if k != "where"})
    for words in (
        ["release", "list"],
        ["release", "show", "evil@2.0.0"],
        ["release", "show", "evil@2.0.0", "--json"],
        ["release", "verify", "evil@2.0.0"],
        ["release", "diff", "evil@1.0.0", "evil@2.0.0"],
        ["export", "csv", "--release", "evil@2.0.0", "--out", place.out],
        ["lineage", "model-a"],
        ["release", "create", "evil"],
        ["release", "retract", "evil@2.0.0", "--reason", TITLE],
    ):
        place.run(*words, "--catalog", uri, allowed=[uri])


LOGS = {
    "run": {"run_id": "../../../PWN"},
    "control": {"run_id": f"run{TITLE}"},
    "up": {"path": "../../elsewhere/PWN.parquet"},
    "root": {"path": "/dev/zero"},
    "scheme": {"path": "file:///dev/zero"},
    "encoded": {"path": "run_id=run-1/%2e%2e/%2e%2e/%2e%2e/elsewhere/PWN.parquet"},
}


@pytest.mark.parametrize("changes", LOGS.values(), ids=LOGS)
def test_a_log_that_leads_out_of_the_catalog_is_refused(place, made, changes):
    uri = with_log(made, place.root / "catalog", **changes)
    victim = place.root / "elsewhere" / "PWN.parquet"
    shutil.copy(next(made.rglob("batch-*.parquet")), victim)
    for words in (
        ["catalog", "sql", "FROM samples", "--csv"],
        ["catalog", "show", NAMES[5]],
        ["catalog", "sheet", "--out", place.out / "sheet.png"],
        ["catalog", "optimize"],
        ["catalog", "vacuum", "--retain-days", "0", "--delete"],
        ["regenerate", "--sample", "1", "--out", place.out],
        ["export", "csv", "--out", place.out],
        ["release", "create", "wbc"],
    ):
        told = place.run(*words, "--catalog", uri, allowed=[uri])
        assert "error: " in told or {"optimize", "vacuum"} & set(words)  # nothing to read
    assert victim.is_file()
    assert not list(place.root.glob("PWN*"))


def pages(client):
    """Every page, and every image's page and pictures, by the links of the pages themselves."""
    title = quote(TITLE)
    seen, fresh = set(), ["/", "/runs", "/models", "/gates", "/evaluations", "/releases",
                          "/compare", f"/images?class={title}", f"/images?{title}=1", f"/{title}",
                          f"/images?version={HUGE}", "/images?sort=copy",
                          "/image/%2e%2e%2fx"]  # fmt: skip
    while fresh:
        address = fresh.pop()
        seen.add(address)
        answer = client.get(address)
        yield address, answer
        if "html" in answer.headers["content-type"]:
            links = {unescape(link) for link in re.findall(r'(?:href|src)="(/[^"]*)"', answer.text)}
            wanted = {link for link in links if link.startswith(("/image/", "/picture/"))}
            fresh += sorted(wanted - seen - set(fresh))


def test_the_gallery_shows_them_without_a_raw_character(made):
    client = client_of(made)
    found = dict(pages(client))
    for address, answer in found.items():
        assert answer.status_code in (200, 400, 404), (address, answer.text[:500])
        if "image/png" not in answer.headers["content-type"]:
            assert not acting(answer.text), address
        assert not acting("".join(answer.headers.values()))
    reached = {a.partition("?")[0] for a, r in found.items() if r.status_code == 200}
    unreached = {n for n in NAMES if f"/image/run-1/{quote(n, safe='')}" not in reached}
    # browsers walk dots, addresses have no lines, and the test's client decodes twice
    assert unreached == {"..", ".", "new\nline", "%2e%2e%2fPWN"}


@pytest.mark.parametrize("changes", [*RELEASES.values(), {"condition": BOMB}])
def test_the_gallery_survives_releases_of_others(uri, changes):
    with_release(uri, **{k: v for k, v in changes.items() if k != "where"})
    client = client_of(uri)
    for address in ("/", "/releases", "/images?release=evil@2.0.0", "/image/run-1/a%2Fb",
                    "/compare?a.release=evil@1.0.0&b.release=evil@2.0.0"):  # fmt: skip
        answer = client.get(address)
        assert answer.status_code in (200, 400, 503), (address, answer.text[:300])
        assert not acting(answer.text)
