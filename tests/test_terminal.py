"""Nothing that is printed acts on the terminal, and no password of a URL is shown."""

import io
import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factory import terminal
from factory.cli import main
from factory.config import load_config
from factory.errors import CatalogError, ConfigError
from factory.sample import session
from factory.sample.config import GenerateConfig
from factory.terminal import (
    console,
    duration,
    guarded,
    holds_password,
    one_line,
    rate,
    tell_driver,
    without_passwords,
)
from tests.fakes.hostile import TITLE, acting

ACTING = [
    TITLE,
    "\x9b31m",
    "\x00",
    "\x7f",
    "\x08",
    "a\rb",
    "\u202eexe",
    "\u2066x",
    "\u2028",
    "\udcff",
]


def printed(capsys: pytest.CaptureFixture[str], *texts: str) -> str:
    with guarded():
        for text in texts:
            click.echo(text)
            click.echo(text, err=True)
            print(text)
    return "".join(capsys.readouterr())


@pytest.mark.parametrize("text", ACTING)
def test_what_acts_is_written_out_by_whatever_prints_it(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(capsys, f"a {text} b")
    assert not acting(told)
    assert told.count("\n") == 3
    with guarded():
        console(width=80).print(f"a {text} b", markup=False)
    assert not acting(capsys.readouterr().out)


def test_lines_tabs_progress_bars_and_windows_ends_of_lines_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = "\r 40 %|####\n\ttwo\r\nthree\r"
    with guarded():
        sys.stdout.write(told)
    assert capsys.readouterr().out == told


def test_colours_of_others_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        sys.stderr.write("\x1b[36m(worker pid=7)\x1b[0m loss 0.1\n")
    assert capsys.readouterr().err == "(worker pid=7) loss 0.1\n"


@given(st.text())
def test_a_name_is_one_line_and_json_stays_json(text: str) -> None:
    assert not acting(one_line(text))
    assert "\n" not in one_line(text)
    stream = io.StringIO()
    held, sys.stdout = sys.stdout, stream
    try:
        with guarded():
            sys.stdout.write(json.dumps([text], ensure_ascii=False))
    finally:
        sys.stdout = held
    assert not acting(stream.getvalue())
    assert json.loads(stream.getvalue()) == [text]


def test_an_error_is_one_line_without_password() -> None:
    error = CatalogError(
        f"the place s3://me:secret/+x@lab/wbc\n is {TITLE}", remedy="Give http://a:b@c, or d"
    )
    assert str(error) == (
        "the place s3://***@lab/wbc is \\u001b]0;pwn\\u0007. Give http://***@c, or d."
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://user:CANARY@nobucket/x", "s3://***@nobucket/x"),
        ("s3://KEY:ab/cd+e@b/x", "s3://***@b/x"),
        ("postgresql://u:12@h", "postgresql://***@h"),
        ("s3://:pw@h", "s3://***@h"),
        ("a http://u:p@h, http://a:b@c!", "a http://***@h, http://***@c!"),
        ("http://head:8265/a@b", None),
        ("abfss://box@account.dfs/x", None),
        ('{"u":"http://h:1x","m":"a@b"}', None),
        ("to me:you@there", None),
    ],
)
def test_passwords_of_urls_are_known(text: str, shown: str | None) -> None:
    assert without_passwords(text) == (shown or text)
    assert holds_password(text) == (shown is not None)


@pytest.mark.parametrize(
    "key",
    ["negative_prompt=see http://me:CANARY@host", "classes={a: [x, 's3://me:CANARY@lab/y']}",
     "data=s3://me:CANARY@lab/real"],
)  # fmt: skip
def test_a_configuration_with_a_password_is_refused(key: str) -> None:
    """It would stand in the rows of the run and of every image."""
    with pytest.raises(ConfigError, match="password in a URL") as caught:
        load_config(GenerateConfig, "wbc", [key])
    assert "CANARY" not in str(caught.value)


def test_the_command_line_is_guarded() -> None:
    """From the outside: a folder with a name that would set the terminal's title."""
    command = [sys.executable, "-c", "from factory.cli import main; main()"]
    asked = ["catalog", "sql", "SELECT 1", "--catalog", f"no\x1b]{TITLE}"]
    told = subprocess.run([*command, *asked], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert not acting(told.stdout + told.stderr)


def test_a_folder_of_names_that_act_is_described_a_line_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"esc{TITLE}", "two\nlines", "c1\x9b31m", "rtl\u202e"]
    for number, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(3):
            picture = Image.new("RGB", (16, 16), (40 * number, 60 * index, 7))
            picture.save(tmp_path / "data" / name / f"x{number}{index}{name}.png")
    for words in (["describe"], ["split", "--out", str(tmp_path / "split.json")]):
        monkeypatch.setattr(sys, "argv", ["factory", "real", *words, str(tmp_path / "data")])
        with suppress(SystemExit):
            main()
        told = "".join(capfd.readouterr())
        assert not acting(told)
        assert any("two\\nlines" in line for line in told.splitlines()) or "split" in words
        assert not any(line.startswith("lines") for line in told.splitlines())


def test_of_workers_a_person_sees_what_they_tell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import JobID
    from ray._private import worker as rays
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as printed

    monkeypatch.setattr(rays, "print_to_stdstream", rays.print_to_stdstream)  # and back again
    stop = threading.Event()

    def poll() -> tuple[None, dict[str, Any]]:
        stop.set()
        return None, {"job_id": None, "error_message": "WARNING: 8 PYTHON worker processes"}

    node = SimpleNamespace(subscribe=lambda: None, poll=poll)
    driver = SimpleNamespace(gcs_error_subscriber=node, current_job_id=JobID.nil())
    tell_driver("step 5/600: loss 0.5, ETA 3 min")
    (told,) = capsys.readouterr().out.splitlines()
    noise = ["[2026] logging.cc:303: Set ray log level", "Setting up process group", ""]
    before = list(printed.handlers)
    try:
        session._show_told()
        printed.emit({"lines": [*noise, told], "pid": 1, "is_err": False})
        printed.emit({"lines": ["Traceback (most recent call last):"], "pid": 2, "is_err": True})
        rays.listen_error_messages(driver, stop)
    finally:
        printed.handlers[:] = before
    assert capsys.readouterr() == ("step 5/600: loss 0.5, ETA 3 min\n", "")


def test_durations_and_rates_are_short() -> None:
    told = [duration(s) for s in (-3, 45, 720, 12_000, 400_000)]
    assert told == ["0 s", "45 s", "12 min", "3 h 20 min", "4 d"]
    assert [rate(r) for r in (0.0123, 4.21, 2112.3)] == ["0.012", "4.2", "2112"]


def test_how_far_a_count_is_is_told_now_and_then_and_not_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, told = [0.0], list[str]()
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    pace = terminal.Pace(400, "views", told.append, seconds=10)
    for seconds, done in ((0, 0), (5, 50), (10, 100), (12, 120), (25, 200), (40, 400)):
        now[0] = float(seconds)
        pace(done)
    assert told == ["100 of 400 views, 10/s; 30 s left", "200 of 400 views, 8.0/s; 25 s left"]
