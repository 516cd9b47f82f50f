"""`factory export` and `factory marks` as a user types them."""

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from click.testing import CliRunner

from catalog.export.command import export, marks
from catalog.releasing import create_release
from factory.errors import CatalogError
from tests.catalog.export.conftest import encoded, published, row_of
from tests.catalog.export.test_marks import KEY, smooth
from tests.fakes.rows import STARTED, rejected


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_condition_and_a_version_choose_what_is_exported(tmp_path):
    uri = tmp_path / "catalog"
    published(uri, [row_of(i) for i in range(4)])
    published(uri, [row_of(i, recipe="b") for i in range(4)], "run-2")
    for arguments, count in (
        ((), 8),
        (("--version", "1"), 4),
        (("--version", "1", "--where", "class_name = 'zebra'"), 2),
    ):
        out = tmp_path / f"out-{count}"
        done = run(export, "csv", "--catalog", uri, "--out", out, *arguments)
        assert f"{count} images, 0 masks as csv" in done.output
        assert len(list((out / "images").rglob("*.png"))) == count


def test_what_a_gate_rejected_is_not_exported_whatever_the_condition(tmp_path):
    refused = rejected(row_of(1), "blur: 0.1 < 0.2")
    published(tmp_path / "c", [row_of(0), refused])
    condition = "image_id IS NOT NULL OR true -- all"
    done = run(
        export, "csv", "--catalog", tmp_path / "c", "--out", tmp_path / "out", "--where", condition
    )
    assert "1 images" in done.output


def test_a_condition_that_closes_our_bracket_is_refused(tmp_path):
    published(tmp_path / "c", [row_of(0), rejected(row_of(1), "blur: 0.1 < 0.2")])
    places = ("--catalog", tmp_path / "c", "--out", tmp_path / "out")
    with pytest.raises(CatalogError, match="syntax error"):
        run(export, "csv", *places, "--where", "true) OR (true")
    assert not (tmp_path / "out").exists()


def test_a_base_name_exports_the_highest_release_and_its_version_is_told(tmp_path):
    uri, out = tmp_path / "c", tmp_path / "out"
    for number, run_id in enumerate(("run-1", "run-2")):
        published(uri, [row_of(0, recipe=run_id)], run_id)
        when = STARTED + timedelta(days=number)
        create_release(uri, "cells", now=when, code_version="0")
    done = run(export, "huggingface", "--catalog", uri, "--out", out, "--release", "cells")
    assert "2 images" in done.output
    assert json.loads((out / "croissant.json").read_text())["version"] == "1.1.0"
    assert "1.1.0" in (out / "README.md").read_text()


def test_marks_are_made_and_found_again(tmp_path):
    rows = [row_of(0, size_px=64)]
    rows[0]["image"]["bytes"] = encoded(smooth(0))
    published(tmp_path / "c", rows)
    (tmp_path / "key").write_bytes(KEY)
    wanted = ["--mark", "text", "--mark", "watermark", "--watermark-key", tmp_path / "key"]
    done = run(export, "csv", "--catalog", tmp_path / "c", "--out", tmp_path / "out", *wanted)
    assert "marks: watermark, text" in done.output
    (path,) = (tmp_path / "out" / "images").rglob("*.png")
    told = run(marks, path, "--watermark-key", tmp_path / "key").output
    assert f"text: synthetic, image '{path.stem}' of 'version 1'" in told
    assert "c2pa: none" in told
    assert "watermark: found" in told
    with pytest.raises(CatalogError, match=r"key' is no whole PNG"):
        run(marks, tmp_path / "key")


def test_a_release_fixes_version_and_condition(tmp_path):
    with pytest.raises(CatalogError, match="release 'r' fixes version and condition"):
        run(export, "csv", "--release", "r", "--version", 1, "--out", tmp_path / "out")


def test_exporting_loads_neither_torch_nor_ray(tmp_path):
    published(tmp_path / "c", [row_of(0, values=(1,))])
    code = (
        "import sys\nfrom catalog import Catalog\nfrom catalog.selection import Selection\n"
        "from catalog.export.write import export\n"
        f"export(Selection(catalog=Catalog({str(tmp_path / 'c')!r})), sys.argv[1], 'coco')\n"
        "heavy = {'torch', 'ray', 'diffusers', 'datasets', 'pydicom'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
