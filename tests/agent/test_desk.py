"""What the tools say of a catalog, and what they refuse: writing, files, pixels, hostile names."""

import io
import json
import shlex
import zlib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalog import SampleSink, write_batch
from catalog.export.png_text import text_of
from catalog.place import Place
from catalog.releasing import create_release
from catalog.tombstones import Mark, record_tombstones
from factory.agent.bounds import CELL_CHARS, MOST_CHARS, as_text, cut
from factory.agent.desk import MOST_SIDE_PX, Desk
from factory.agent.tools import TOOLS, answer
from factory.errors import CatalogError, FactoryError
from factory.models.generator import Generator
from factory.sample.rows import encode_png
from factory.sample.session import start_run
from tests.fakes.gallery import catalog_at, publish
from tests.fakes.hostile import BOMB, NAMES, acting, hostile_catalog, with_release
from tests.fakes.rows import rejected, rows_table, sample_row


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a question take longer than an assistant would wait: the machine may do much else."""
    monkeypatch.setattr("factory.agent.desk.QUERY_SECONDS", 300.0)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = catalog_at(tmp_path_factory.mktemp("agent") / "catalog")
    create_release(place, "wbc", now=datetime.now(UTC), code_version="test")
    return place


@pytest.fixture(scope="module")
def desk(uri: Path, tiny: Generator) -> Iterator[Desk]:
    with closing(Desk(place=Place(str(uri)), models=(str(tiny.folder),))) as found:
        yield found


def asked(desk: Desk, name: str, **arguments: object) -> dict[str, object]:
    """Return what a tool says, as its text reads."""
    found: dict[str, object] = json.loads(as_text(answer(desk, name, arguments).data))
    return found


def ids(desk: Desk, where: str = "true") -> list[str]:
    text = f"SELECT image_id FROM samples WHERE {where} ORDER BY 1"
    return [row["image_id"] for row in desk.rows(text)]


def test_a_description_counts_what_is_there(desk: Desk) -> None:
    told = asked(desk, "describe_catalog")
    assert told["images"]["neutrophil"] == {"accepted": 4, "rejected": 4}
    assert [run["run_id"] for run in told["runs"]] == ["run-high", "run-low"]
    assert told["releases"] == [
        {"name": "wbc@1.0.0", "status": "created", "images": 36, "why": None}
    ]
    assert told["studies"] == 1
    assert {"image_id", "attributes"} <= set(told["tables"]["samples"])
    assert not {"image", "mask"} & set(told["tables"]["samples"])
    assert told["can_draw_with"][0] == "wbc-base"


def test_a_query_gives_rows_and_says_what_it_left_off(desk: Desk) -> None:
    told = asked(desk, "query_catalog", sql="SELECT image_id FROM samples", limit=3)
    assert len(told["rows"]) == 3
    assert "more than these 3" in told["left_off"]
    counts = "SELECT class_name, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1"
    told = asked(desk, "query_catalog", sql=counts)
    assert told == {
        "columns": ["class_name", "n"],
        "rows": [
            {"class_name": c, "n": 8}
            for c in ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
        ],
    }


def test_long_values_are_cut_and_wide_answers_end(desk: Desk) -> None:
    told = asked(desk, "query_catalog", sql="SELECT repeat('x', 5000) AS long, [1, 2] AS few")
    assert told["rows"][0] == {
        "long": "x" * CELL_CHARS + "... (5,000 characters)",
        "few": [1, 2],
    }
    wide = "SELECT repeat('y', 390) AS a, repeat('z', 390) AS b FROM range(200)"
    told = asked(desk, "query_catalog", sql=wide, limit=200)
    assert 0 < len(told["rows"]) < 100
    assert "left_off" in told
    columns = ", ".join(f"repeat('y', 399) AS c{n}" for n in range(120))
    with pytest.raises(CatalogError, match=r"characters in 120 columns.*Name the columns"):
        asked(desk, "query_catalog", sql=f"SELECT {columns}")
    assert cut(list(range(300)))[-1] == "... 200 more"
    with pytest.raises(CatalogError, match="characters, at most"):
        as_text({str(n): "x" * 399 for n in range(MOST_CHARS // 399 + 1)} | {"z": ["y" * 399] * 99})


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM samples",
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO samples SELECT * FROM samples",
        "ATTACH '/tmp/x.db'",
        "COPY samples TO '/tmp/out.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT 1; DROP TABLE samples",
        "EXPLAIN ANALYZE DELETE FROM samples",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT image FROM samples",
        "SELECT octet_length(mask.bytes) FROM samples",
        "SELECT s.image FROM samples AS s",
        pytest.param(f"SELECT 1 WHERE {BOMB}", id="bomb"),
    ],
)
def test_sql_that_writes_reads_files_or_pixels_is_refused(desk: Desk, sql: str) -> None:
    with pytest.raises(CatalogError) as found:
        asked(desk, "query_catalog", sql=sql)
    assert "root:" not in str(found.value)
    assert found.value.remedy


def test_columns_that_are_hidden_are_in_no_star(desk: Desk) -> None:
    told = asked(desk, "query_catalog", sql="SELECT * FROM samples", limit=1)
    assert not {"image", "mask"} & set(told["columns"])
    told = asked(desk, "query_catalog", sql="DESCRIBE samples", limit=200)
    assert not {"image", "mask"} & {row["column_name"] for row in told["rows"]}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("show_image", {"image_id": "../../etc/passwd"}, "is '../../etc/passwd': no id"),
        ("show_image", {"image_id": "a/b"}, "no id"),
        ("show_image", {"image_id": "a..b"}, "no id"),
        ("show_image", {"image_id": "x" * 300}, "no id"),
        ("show_image", {"image_id": ""}, "no id"),
        ("show_image", {"image_id": "a\n"}, "no id"),
        ("show_image", {"image_id": "a\x1b[31m"}, "no id"),
        ("show_image", {"image_id": "' OR 1=1 --"}, "no id"),
        ("show_image", {"image_id": "0" * 32}, "image '0+' is not in version"),
        ("show_image", {"image_id": 7}, "image_id is 7"),
        ("show_image", {"image_id": ["a"]}, r"image_id is \('a',\)"),
        ("show_image", {}, "image_id: Field required"),
        ("show_image", {"image_id": "a", "picture": "real"}, "picture is 'real'"),
        ("show_image", {"image_id": "a", "path": "/etc/passwd"}, "unknown key 'path'"),
        ("trace_image", {"image_id": "/etc/passwd"}, "no id"),
        ("query_catalog", {"sql": "SELECT 1", "limit": 10**12}, "limit is 1000000000000"),
        ("query_catalog", {"sql": "SELECT 1", "limit": 0}, "limit is 0"),
        ("query_catalog", {"sql": "SELECT 1", "limit": "5"}, "limit is '5'"),
        ("query_catalog", {"sql": "SELECT 1", "limit": True}, "limit is True"),
        ("query_catalog", {"sql": "SELECT 1", "version": -1}, "version is -1"),
        ("query_catalog", {"sql": "SELECT 1", "version": 10**9}, "version"),
        ("query_catalog", {"sql": "SELECT '\x1b]0;x\x07'"}, "a character that acts"),
        ("query_catalog", {"sql": "SELECT 1 --" + "x" * 10_000}, "sql is .*at most 10000"),
        ("query_catalog", {"sql": None}, "sql is None"),
        ("list_studies", {"limit": 21}, "limit is 21"),
        ("plan_generation", {"model": "/etc"}, "generator '/etc' is not among those"),
        ("plan_generation", {"model": "someone/on-a-hub"}, "is not among those"),
        ("plan_generation", {"preset": "/etc/passwd"}, "no preset '/etc/passwd'"),
        ("plan_generation", {"preset": "wbc_sweep"}, "wbc_sweep: "),
        ("plan_generation", {"data": "/home"}, "unknown key 'data'"),
        ("plan_generation", {"table": "/etc/passwd"}, "unknown key 'table'"),
        ("plan_generation", {"lora": "x.safetensors"}, "unknown key 'lora'"),
        ("plan_generation", {"num_images": 10**12}, "num_images is 1000000000000"),
        ("plan_generation", {"guidance_scale": "high"}, "guidance_scale is 'high'"),
        ("plan_generation", {"scheduler": "heun"}, "scheduler is 'heun'"),
        ("plan_generation", {"classes": ["blast"]}, "'blast' is unknown"),
        ("plan_generation", {"classes": {"monocyte": "\u202e"}}, "acts instead of showing"),
        ("plan_generation", {"classes": {"monocyte": "cell " * 199}}, "would be cut off"),
        ("draw", {}, "there is no tool 'draw'.*describe_catalog"),
    ],
)
def test_a_hostile_argument_is_named_and_refused(
    desk: Desk, name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(FactoryError, match=message) as found:
        asked(desk, name, **arguments)
    assert not acting(str(found.value))
    assert len(str(found.value)) < 1500


def test_an_image_comes_as_png_that_says_it_is_synthetic(desk: Desk) -> None:
    (image_id, *_) = ids(desk, "batch_slot = 0 AND run_id = 'run-low'")
    found = answer(desk, "show_image", {"image_id": image_id})
    assert found.data["class_name"]
    assert found.data["has_mask"]
    told = text_of(found.png or b"")
    assert told is not None
    assert (told["synthetic"], told["image_id"]) == (True, image_id)
    for picture in ("mask", "outlines"):
        shown = answer(desk, "show_image", {"image_id": image_id, "picture": picture})
        assert Image.open(io.BytesIO(shown.png or b"")).size[0] >= 8


def test_an_image_without_a_mask_has_none_to_show(desk: Desk) -> None:
    image_id = ids(desk, "mask IS NULL")[0]
    with pytest.raises(CatalogError, match="has no mask to show"):
        asked(desk, "show_image", image_id=image_id, picture="mask")


def test_a_lineage_names_run_releases_studies_and_the_command_that_redraws(desk: Desk) -> None:
    (image_id, *_) = ids(desk, "gate_status = 'accepted'")
    told = asked(desk, "trace_image", image_id=image_id)
    results = {node["kind"]: node["id"] for node in told["lineage"]["results"]}
    assert results == {"release": "wbc@1.0.0", "study": "study-1"}
    assert {node["kind"] for node in told["lineage"]["sources"]} == {"run", "generator"}
    words = shlex.split(told["redraw"])
    assert words[-4:] == ["regenerate", image_id, "--catalog", str(desk.place.uri)]


def test_studies_come_with_verdicts_and_means(desk: Desk) -> None:
    (study,) = asked(desk, "list_studies")["studies"]
    assert study["verdicts"] == {"mixed": "mixed helps by 4.1 points [1.9, 6.3]"}
    assert {arm["arm"]: arm["mean"] for arm in study["arms"]} == {"real": 0.75, "mixed": 0.75}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classes": ["monocyte"], "num_images": 5},
        {"classes": {"monocyte": ["a: 'b' \"c\"", "no"]}, "guidance_scale": 3, "size_px": 32},
        {"negative_prompt": "yes", "max_tries": 2, "seed": 4},
    ],
)
def test_the_command_of_a_plan_is_that_run(
    desk: Desk, tiny: Generator, changes: dict[str, object]
) -> None:
    told = asked(desk, "plan_generation", model=str(tiny.folder), **changes)
    words = shlex.split(told["next"])
    sets = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    number = int(words[words.index("--num-images") + 1]) if "--num-images" in words else None
    assert words[words.index("--catalog") + 1] == desk.place.uri
    source = words[words.index("--config") + 1]
    run = start_run(source=source, overrides=sets, num_images=number, place=desk.place)
    assert run.run_id == told["run_id"]
    assert (
        run.plan.num_images == told["images"] == sum(c["images"] for c in told["classes"].values())
    )
    assert told["published"] == 0
    assert "--preview" in told["look_first"]


def test_a_plan_writes_nothing(desk: Desk, uri: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in uri.rglob("*")}
    for name, arguments in (
        ("describe_catalog", {}),
        ("plan_generation", {"num_images": 3}),
        ("list_studies", {}),
        ("query_catalog", {"sql": "SELECT 1"}),
        ("show_image", {"image_id": ids(desk)[0]}),
        ("trace_image", {"image_id": ids(desk)[0]}),
    ):
        asked(desk, name, **arguments)
    assert {path: path.stat().st_mtime_ns for path in uri.rglob("*")} == before
    assert set(TOOLS) == {
        *("describe_catalog", "query_catalog", "show_image", "trace_image"),
        *("plan_generation", "list_studies"),
    }


def test_forgotten_images_near_copies_and_bombs_are_not_shown(tmp_path: Path) -> None:
    uri = tmp_path / "catalog"
    publish(uri, "run-1", 4)
    big = encode_png(np.zeros((MOST_SIDE_PX * 2, 64, 3), np.uint8))
    huge = bytearray(encode_png(np.zeros((8, 8, 3), np.uint8)))
    huge[16:24] = (20_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    rows = [rejected(sample_row(10), "copy: 0.2 of the distance of unseen ones to patient-7")]
    for number, png in enumerate((big, bytes(huge), b"no png", big[:200]), start=11):
        row = sample_row(number)
        rows.append(row | {"image": {**row["image"], "bytes": png}})
    file = write_batch(uri, run_id="run-2", batch_index=0, rows=rows_table(rows))
    SampleSink(uri, "run-2").commit([file])
    near, large, bomb, text, half = (str(row["image_id"]) for row in rows)
    with closing(Desk(place=Place(str(uri)))) as desk:
        gone = ids(desk, "run_id = 'run-1'")[0]
        marks = [Mark(kind="image", target_id=gone, because="reference")]
        record_tombstones(uri, "patient-1", marks, now=datetime.now(UTC), code_version="test")
        for image_id, message in (
            (gone, "handed out no longer"),
            (near, "too near to a real image"),
            (bomb, "no readable PNG .*pixels"),
            (text, "no readable PNG"),
            (half, "no readable PNG"),
        ):
            with pytest.raises(CatalogError, match=message):
                asked(desk, "show_image", image_id=image_id)
        shown = answer(desk, "show_image", {"image_id": large}).png
        assert max(Image.open(io.BytesIO(shown or b"")).size) == MOST_SIDE_PX
        with pytest.raises(CatalogError, match="handed out no longer"):
            asked(desk, "trace_image", image_id=gone)


def test_a_catalog_of_somebody_who_means_harm_is_read_without_harm(tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    uri = with_release(hostile_catalog(tmp_path / "catalog", outside), condition=BOMB)
    with closing(Desk(place=Place(str(uri)))) as desk:
        for name in ("describe_catalog", "list_studies", "query_catalog"):
            sql = {"sql": "SELECT * FROM samples"} if name == "query_catalog" else {}
            text = as_text(answer(desk, name, sql).data)
            assert not acting(text)
            assert len(text) <= MOST_CHARS
            json.loads(text)
        for name in NAMES:  # ids that come from rows are no ids here
            try:
                told = as_text(answer(desk, "show_image", {"image_id": name}).data)
            except FactoryError as error:
                told = str(error)
            assert not acting(told)
    assert [*outside.iterdir()] == []


def test_no_password_and_no_value_of_a_storage_option_is_told(uri: Path) -> None:
    assert "hunter2" not in as_text({"a": "s3://user:hunter2@host/bucket is gone"})
    place = Place(str(uri), {"AWS_SECRET_ACCESS_KEY": "hunter2"})
    with closing(Desk(place=place)) as desk:
        told = as_text(answer(desk, "describe_catalog", {}).data)
        assert "AWS_SECRET_ACCESS_KEY=..." in told
        assert "hunter2" not in told
