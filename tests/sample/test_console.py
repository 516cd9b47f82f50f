"""What a person reads of a run: names as they are, lines that can be copied, a way to go on."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from catalog import SampleSink, write_batch
from factory.command_line import PROGRAM
from factory.models.generator import Generator
from factory.sample import console
from factory.sample.config import GenerateConfig
from factory.sample.plan import Plan
from factory.sample.prepare import Run, prepare
from tests.fakes.rows import batch_rows
from tests.fakes.tiny import tiny_generator

ODD = "x [/b]oom; :smile: "


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_generator(tmp_path_factory.mktemp("models") / "gén [x] y", class_names=(ODD,))


@pytest.fixture
def run(odd: Generator, tmp_path: Path) -> Run:
    """A run of one batch, published already: following it needs no Ray."""
    config = GenerateConfig(
        model=str(odd.folder), num_images=4, classes={ODD: "a cell"}, batch_size=4, seed=1
    )
    made = prepare(config, str(tmp_path / ("long " * 30) / "sp ace [/y] ünï"))
    rows = batch_rows(0, class_name=ODD)
    file = write_batch(made.place.uri, run_id=made.run_id, batch_index=0, rows=rows)
    SampleSink(made.place.uri, made.run_id).commit([file])
    return made


def test_names_are_printed_as_they_are_on_lines_that_can_be_copied(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROGRAM, "bin/factory")
    console.follow(run)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert f"catalog  {run.place.uri} (version 1)" in lines
    assert f"sheet    {run.place.uri}/sheets/{run.run_id}.png" in lines
    assert ODD.strip() in printed
    tried = [shlex.split(line) for line in lines if line.startswith("  bin/factory ")]
    assert len(tried) == 4
    assert all(words[-2:] == ["--catalog", run.place.uri] for words in tried)


def test_an_interrupted_run_says_how_to_go_on(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Run, **_options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        console.follow(run)
    command = capsys.readouterr().out.splitlines()[-1].partition("Go on with: ")[2]
    assert shlex.split(command)[-3:] == [run.run_id, "--catalog", run.place.uri]


def test_a_class_that_lacks_images_is_named_at_the_end(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (quota,) = run.plan.quotas
    more = replace(run, plan=Plan(quotas=(replace(quota, count=6),)))
    console._summary(console.Console(width=100), more)
    printed = capsys.readouterr().out
    assert "lacks 2 of 6 images: 4 were drawn, max_tries is 1" in printed
