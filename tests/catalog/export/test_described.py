"""Card, Croissant, PROV and statement: right figures, valid, inert, and no secret in any file."""

import json
import re
from pathlib import Path

import pytest
import yaml

from catalog import Catalog, record_evaluation
from catalog.export.formats import FORMATS
from catalog.export.layout import cell, inert
from catalog.export.statement import sha256_of
from catalog.export.write import export
from catalog.place import Place
from catalog.schema import SCORES
from catalog.selection import Selection
from factory.digest import canonical_json
from tests.catalog.export.conftest import NAMES, published, row_of
from tests.fakes.rows import STARTED

NASTY = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1)) ![y](http://z/z.png)",
    "`a` | **b** \n# head\n---\n<img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
)


def study(**changes):
    row = {
        "evaluation_id": "study-1",
        "name": "small study",
        "task": "classify",
        "config": "{}",
        "config_digest": "d",
        "dataset_fingerprint": "real-a",
        "split_digests": ["split-a"],
        "catalog_version": 1,
        "model_ids": ["model-a"],
        "arms": ["real", "mixed"],
        "baseline": "real",
        "metric": "macro_f1",
        "verdicts": json.dumps({"mixed": "helps by 4.1 points [1.9, 6.3]"}),
        "comparisons": "[]",
        "code_version": "0.1.0",
        "finished_at": STARTED,
    }
    return row | changes


def score():
    row = dict.fromkeys(SCORES.names, 0)
    texts = ("evaluation_id", "unit_id", "arm", "part", "metric", "manifest_digest", "split_digest")
    return row | dict.fromkeys(texts, "x") | {"evaluation_id": "study-1", "class_name": None}


def front_of(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def rendered(text):
    """What a page shows of Markdown with HTML, tables and links to bare addresses."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(text)


def test_the_card_tells_counts_generators_gates_studies_and_that_nothing_is_real(tmp_path, plain):
    record_evaluation(plain.catalog.uri, study(), [score()])
    export(plain, tmp_path / "out", "csv")
    front, body = front_of((tmp_path / "out" / "README.md").read_text())
    assert front["license"] == "cc-by-4.0"
    assert {"synthetic", "medical"} <= set(front["tags"])
    assert "not real patients" in body
    for number, (name, count) in enumerate(zip(NAMES, (3, 2, 2), strict=True)):
        assert f"| {name} | {number} | {count} |" in body
    assert "model-a | wbc-base | text | base-model" in body
    assert "rejected by gate: blur 3" in body
    assert "helps by 4.1 points" in body.replace("&#91;", "[")
    assert "split split-a of real dataset real-a" in body
    assert (tmp_path / "out" / "sheet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", NASTY)
def test_texts_of_others_do_nothing_in_markdown(text):
    page = rendered(f"| a |\n| --- |\n| {inert(text)} |\n\nIn a line: {inert(text)}.\n")
    tags = set(re.findall(r"<(/?\w+)", page))
    assert tags <= {"table", "/table", "thead", "/thead", "tbody", "/tbody"} | {
        "tr", "/tr", "th", "/th", "td", "/td", "p", "/p"
    }  # fmt: skip
    import html

    shown = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert " ".join(text.split()) in shown


def test_no_markup_of_class_names_or_prompts_reaches_a_card(tmp_path):
    rows = [
        row_of(i, names=NASTY, prompt=name, recipe=canonical_json({"class_name": name}))
        for i, name in enumerate(NASTY)
    ]
    export(published(tmp_path / "c", rows), tmp_path / "out", "csv")
    _, body = front_of((tmp_path / "out" / "README.md").read_text())
    for part in ("<script", "<img", "javascript:", "](http", "onerror="):
        assert part not in body
    page = rendered(body)
    assert page.count("<img") == 1  # the sheet
    assert "<script" not in page
    assert "<a " not in page


def test_a_cell_is_no_formula_and_comes_back():
    for text in ("=1+1", "+a", "-a", "@a", "\ta", "'a", "a", ""):
        written = cell(text)
        assert not written.startswith(("=", "+", "-", "@", "\t"))
        assert (written[1:] if written.startswith("'") else written) == text


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib.*")  # not ours to mend
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlcroissant.*")
@pytest.mark.parametrize("form", ["huggingface", "webdataset", "yolo"])
def test_croissant_is_valid_and_lists_every_image(tmp_path, masked, form):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed (dev)")
    export(masked, tmp_path / "out", form)
    told = mlcroissant.Dataset(jsonld=tmp_path / "out" / "croissant.json")
    assert not told.metadata.ctx.issues.errors
    assert not told.metadata.ctx.issues.warnings
    ids = {record["images/image_id"].decode() for record in told.records("images")}
    assert ids == set(masked.image_ids)
    raw = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert {"rai:dataLimitations", "rai:personalSensitiveInformation"} <= set(raw)
    for listed in raw["distribution"]:
        if listed["@type"] == "cr:FileSet":
            assert list((tmp_path / "out").glob(listed["includes"]))


def test_the_statement_holds_the_digest_of_every_file_and_what_they_were_made_from(tmp_path, plain):
    export(plain, tmp_path / "out", "csv", semver="1.2.0")
    told = json.loads((tmp_path / "out" / "statement.intoto.json").read_text())
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {s["name"] for s in told["subject"]} == files - {"statement.intoto.json"}
    for subject in told["subject"]:
        assert subject["digest"]["sha256"] == sha256_of(tmp_path / "out" / subject["name"])
    built = told["predicate"]["buildDefinition"]
    assert sum(r["num_images"] for r in built["externalParameters"]["recipes"]) == 7
    assert built["externalParameters"]["version"] == "1.2.0"
    names = {material["name"] for material in built["resolvedDependencies"]}
    assert names == {
        "dataset:real-a", "split:split-a", "model:model-a", "code:0.1.0"
    }  # fmt: skip


def test_prov_leads_from_the_real_set_to_the_export_and_names_nothing_twice(tmp_path, plain):
    export(plain, tmp_path / "out", "csv")
    told = json.loads((tmp_path / "out" / "prov.json").read_text())
    known = {name for kind in ("entity", "activity", "agent") for name in told[kind]}
    links = {}
    for kind in ("used", "wasGeneratedBy", "wasDerivedFrom", "wasAssociatedWith"):
        for relation in told[kind].values():
            first, second = relation.values()
            assert {first, second} <= known
            links.setdefault(first, set()).add(second)
    (start,) = (name for name in known if name.startswith("f:export/"))
    reached, ahead = set(), {start}
    while ahead:
        reached |= ahead
        ahead = {n for name in ahead for n in links.get(name, ())} - reached
    assert {"f:run/run-1", "f:model/model-a", "f:split/split-a", "f:dataset/real-a"} <= reached
    assert "f:model/base-model" in reached


@pytest.mark.parametrize("form", list(FORMATS))
def test_no_secret_and_no_place_reaches_a_file(tmp_path, masked, monkeypatch, form):
    canary = "canary-8f2b61"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("FACTORY_TOKEN", canary)
    secret = Catalog(Place(masked.catalog.uri, {"AWS_SECRET_ACCESS_KEY": canary}))
    export(Selection(catalog=secret), tmp_path / "out", form)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 6
    for path in files:
        data = path.read_bytes()
        assert canary.encode() not in data
        assert str(tmp_path).encode() not in data
        assert str(Path.home()).encode() not in data


def test_exporting_again_gives_the_same_bytes(tmp_path, masked):
    for name in ("a", "b"):
        export(masked, tmp_path / name, "webdataset")
    told = [{p.name: sha256_of(p) for p in (tmp_path / name).rglob("*.*")} for name in ("a", "b")]
    assert told[0] == told[1]
