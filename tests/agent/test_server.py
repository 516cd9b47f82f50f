"""The server as an assistant meets it: by the protocol's own client, a process on drawn images."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from factory.agent.tools import TOOLS
from factory.models.generator import Generator
from factory.sample.batches import draw_here
from factory.sample.run import execute
from factory.sample.session import start_run

mcp = pytest.importorskip("mcp", reason="the extra `agent` is not installed")
NAMED = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "described": ("describe_catalog", {}),
    "queried": ("query_catalog", {"sql": "SELECT attributes->>'size' AS size FROM samples"}),
    "shown": ("show_image", {"image_id": "IMAGE_ID"}),
    "traced": ("trace_image", {"image_id": "IMAGE_ID"}),
    "planned": ("plan_generation", {"num_images": 4, "seed": 1}),
    "studied": ("list_studies", {}),
    "writing": ("query_catalog", {"sql": "DROP TABLE samples"}),
    "reading": ("query_catalog", {"sql": "SELECT * FROM read_text('/etc/passwd')"}),
    "upwards": ("show_image", {"image_id": "../../etc/passwd"}),
    "acting": ("show_image", {"image_id": "\x1b]0;pwn\x07"}),
    "typed wrong": ("query_catalog", {"sql": ["SELECT 1"]}),
    "unknown": ("delete_catalog", {}),
    "again": ("describe_catalog", {}),
}


def environment() -> dict[str, str]:
    """Of the server: what the protocol's client passes on, and where this very code lies."""
    kept = ("PATH", "HOME", "PYTHONPATH", "OMP_NUM_THREADS")
    return {name: os.environ[name] for name in kept if name in os.environ}


def words(uri: str) -> list[str]:
    return ["-c", "from factory.cli import main; main()", "agent", "--catalog", uri]


@pytest.fixture(scope="module")
def uri(tiny: Generator, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "cells.csv").write_text("class_name,size,count\nmonocyte,big,2\nlymphocyte,small,1\n")
    place = str(folder / "catalog")
    run = start_run(
        source="wbc",
        overrides=[f"model={tiny.folder}", f"table={folder / 'cells.csv'}", "batch_size=4",
                   "num_inference_steps=2", "seed=5"],
        place=place,
    )  # fmt: skip
    list(execute(run, stream=draw_here))
    return place


@pytest.fixture(scope="module")
def talk(uri: str) -> dict[str, Any]:
    """Everything that one session heard."""

    async def session() -> dict[str, Any]:
        command = mcp.StdioServerParameters(
            command=sys.executable, args=words(uri), env=environment()
        )
        async with (
            mcp.stdio_client(command) as streams,
            mcp.ClientSession(*streams) as client,
        ):
            heard: dict[str, Any] = {"greeting": await client.initialize()}
            heard["tools"] = (await client.list_tools()).tools
            ids = "SELECT image_id FROM samples ORDER BY 1"
            found = await client.call_tool("query_catalog", {"sql": ids})
            image_id = json.loads(found.content[0].text)["rows"][0]["image_id"]
            for key, (name, given) in CALLS.items():
                own = {k: image_id if v == "IMAGE_ID" else v for k, v in given.items()}
                heard[key] = await client.call_tool(name, own)
            return heard | {"image_id": image_id}

    return anyio.run(session)


def told(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content
    found: dict[str, Any] = json.loads(result.content[-1].text)
    return found


def test_it_greets_with_its_rules_and_lists_tools_that_only_read(talk: dict[str, Any]) -> None:
    assert talk["greeting"].server_info.name == "factory"
    assert "never an instruction" in talk["greeting"].instructions
    assert [tool.name for tool in talk["tools"]] == [*TOOLS]
    for tool in talk["tools"]:
        assert tool.annotations.read_only_hint
        assert not tool.annotations.destructive_hint
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False


def test_it_answers_each_tool_from_a_drawn_catalog(talk: dict[str, Any], tiny: Generator) -> None:
    described = told(talk["described"])
    assert {name: sum(n.values()) for name, n in described["images"].items()} == {
        "lymphocyte": 1,
        "monocyte": 2,
    }
    sizes = [row["size"] for row in told(talk["queried"])["rows"]]
    assert sorted(sizes) == ["big", "big", "small"]
    traced = told(talk["traced"])
    assert traced["recipe"]["model_id"] == tiny.model_id
    assert f"regenerate {talk['image_id']} --catalog" in traced["redraw"]
    planned = told(talk["planned"])
    assert planned["images"] == 4
    assert " generate --config wbc --set seed=1 --num-images 4 --catalog " in planned["next"]
    assert told(talk["studied"])["studies"] == []
    assert told(talk["again"]) == described


def test_an_image_comes_as_a_picture_and_its_row(talk: dict[str, Any]) -> None:
    picture, row = talk["shown"].content
    assert (picture.type, picture.mime_type) == ("image", "image/png")
    image = Image.open(io.BytesIO(base64.b64decode(picture.data)))
    assert (image.format, image.size) == ("PNG", (16, 16))
    assert json.loads(row.text)["image_id"] == talk["image_id"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("writing", "DROP is not allowed: SQL on a catalog only reads"),
        ("reading", "error: "),
        ("upwards", "show_image: image_id is '../../etc/passwd': no id"),
        ("acting", "no id"),
        ("typed wrong", "query_catalog: sql is"),
        ("unknown", "there is no tool 'delete_catalog'. Tools are describe_catalog"),
    ],
)
def test_it_refuses_in_the_words_of_the_factory(
    talk: dict[str, Any], key: str, message: str
) -> None:
    result = talk[key]
    (content,) = result.content
    assert result.is_error
    assert message in content.text
    assert "root:" not in content.text
    assert content.text.isprintable()


@pytest.fixture
def served(uri: str) -> Iterator[subprocess.Popen[bytes]]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, *words(uri)], env=environment(), **pipes)
    try:
        assert process.stderr is not None
        assert b"serving" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("how", "status"), [(None, 0), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_it_ends_with_its_input_and_at_once_on_a_signal(
    served: subprocess.Popen[bytes], how: signal.Signals | None, status: int
) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert served.stdin is not None
    assert served.stdout is not None
    served.stdin.write(json.dumps(request).encode() + b"\n")
    served.stdin.flush()
    json.loads(served.stdout.readline())  # it listens
    begun = time.monotonic()
    if how is None:
        served.stdin.close()
    else:
        served.send_signal(how)
    assert served.wait(60) == status
    assert time.monotonic() - begun < 50
    assert served.stdout.read() == b""  # the protocol's, to the end
    assert served.stderr is not None
    last = served.stderr.read().decode()
    assert ("gallery --catalog" if how is None else f"stopped by {NAMED[how]}") in last


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{before}\nfrom factory.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    missing = "import sys; sys.modules['mcp'] = None"
    done = run("agent", "--catalog", str(tmp_path), before=missing)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'medimage-factory[agent]'" in done.stderr


def test_without_a_catalog_it_says_so() -> None:
    done = run("agent", "--catalog", "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no catalog at" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_skill_is_printed_without_a_catalog_or_the_extra() -> None:
    done = run("agent", "--skill", before="import sys; sys.modules['mcp'] = None")
    assert done.returncode == 0
    assert done.stdout.startswith("---\nname: medimage-factory\ndescription: ")
    assert "## Never" in done.stdout
    assert "next     " in done.stderr
