"""OpenLineage events reach a server, hold no secret, and never stop a run."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from factory.models.generator import Generator
from factory.monitor.lineage import dataset_name, lineage_recorder
from factory.sample.batches import draw_here
from factory.sample.run import execute
from tests.monitor.test_recorder import prepared

pytest.importorskip("openlineage.client", reason="the extra `openlineage` is not installed")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A lineage server on loopback; yields the events that reached it."""
    events: list[dict[str, Any]] = []

    class Lineage(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Lineage)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{running.server_port}")
    try:
        yield events
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_a_run_sends_start_and_complete(
    server: list[dict[str, Any]], tiny: Generator, tmp_path: Path
) -> None:
    run = prepared(tiny, tmp_path / "c")
    list(execute(run, stream=draw_here, recorder=lineage_recorder({})))
    start, complete = server
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["job"]["namespace"] == "medimage-factory"
    assert complete["job"]["name"] == f"generate.{tiny.name}"
    (output,) = complete["outputs"]
    assert (output["namespace"], output["name"]) == ("file", str(tmp_path / "c" / "samples"))
    assert output["facets"]["version"]["datasetVersion"] == "2"
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 10
    assert "image_id" in {field["name"] for field in output["facets"]["schema"]["fields"]}
    assert complete["inputs"][0]["facets"]["version"]["datasetVersion"] == tiny.model_id
    assert complete["run"]["facets"]["processing_engine"]["name"] == "ray"


def test_a_failure_sends_its_error(
    server: list[dict[str, Any]], tiny: Generator, tmp_path: Path
) -> None:
    run = execute(prepared(tiny, tmp_path / "c"), stream=draw_here, recorder=lineage_recorder({}))
    next(run)
    with pytest.raises(RuntimeError):
        run.throw(RuntimeError("power cut"))
    assert [event["eventType"] for event in server] == ["START", "FAIL"]
    assert server[1]["run"]["facets"]["errorMessage"]["message"] == "RuntimeError: power cut"


def test_a_dead_server_stops_no_run(
    tiny: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY__TOTAL", "0")
    run = prepared(tiny, tmp_path / "c")
    *_, last = execute(run, stream=draw_here, recorder=lineage_recorder({}))
    assert last.complete
    assert "lineage event not sent" in caplog.messages


def test_places_are_named_as_the_specification_says() -> None:
    assert dataset_name("s3://lab/wbc/2026") == ("s3://lab", "wbc/2026")
    assert dataset_name("/data/wbc") == ("file", "/data/wbc")
    assert dataset_name("file:///data/wbc") == ("file", "/data/wbc")
    assert dataset_name("https://ada:" + "pa55@host/cells") == ("https://host", "cells")
