"""Logs are lines of JSON when asked for, and nothing but warnings otherwise."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from factory.errors import ConfigError
from factory.monitor.log import set_up


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    set_up("text")


def test_a_line_is_json_with_the_extra_fields() -> None:
    stream = io.StringIO()
    set_up("json", stream)
    extra = {"run_id": "run-1", "batch_index": 3, "odd": {1}}
    logging.getLogger("factory.run").info("batch %s\nécrit", 3, extra=extra)
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["message"] == "batch 3\nécrit"
    assert told["level"] == "info"
    assert (told["run_id"], told["batch_index"], told["odd"]) == ("run-1", 3, "{1}")
    assert told["time"].endswith("+00:00")


def test_an_exception_is_part_of_its_line() -> None:
    stream = io.StringIO()
    set_up("json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("factory.run").exception("stopped")
    assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]


def test_set_up_twice_writes_a_line_once() -> None:
    stream = io.StringIO()
    set_up("json", stream)
    set_up("json", stream)
    logging.getLogger("factory.run").info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_text_adds_nothing() -> None:
    stream = io.StringIO()
    set_up("json", stream)
    set_up("text")
    logging.getLogger("factory.run").info("unheard")
    assert stream.getvalue() == ""


def test_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'xml'.*text, json"):
        set_up("xml")
