"""A method is one folder and one line: all that a newcomer has to write."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from catalog.query import sql
from catalog.table import Catalog
from factory.cli import cli
from factory.config import parse_config
from factory.errors import ConfigError
from factory.method import METHODS, find_method, invertible_methods
from factory.models.generator import Generator, open_generator
from factory.real.pixels import published_pixels
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.method import Method
from factory.sample.prepare import prepare, prepare_resume
from factory.sample.regenerate import regenerate_images
from factory.sample.run import execute


@pytest.fixture
def toy(tiny: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator:
    """A generator of a method that only these tests know."""
    monkeypatch.setitem(METHODS, "toy", "tests.fakes.toy_method")  # the one line
    folder = shutil.copytree(tiny.folder, tmp_path / "toy")
    manifest = json.loads((folder / "factory.json").read_text())
    (folder / "factory.json").write_text(json.dumps(manifest | {"method": "toy"}))
    return open_generator(folder)


def job(toy: Generator, **changes: object) -> GenerateConfig:
    known = {
        "model": str(toy.folder),
        "num_images": 4,
        "batch_size": 2,
        "num_inference_steps": 1,
        "seed": 1,
        "gates": None,
        "stream": {"commit_batches": 1},
    }
    return parse_config(GenerateConfig, known | changes, where="test")


def test_a_new_method_is_drawn_stopped_resumed_and_redrawn(toy: Generator, tmp_path: Path) -> None:
    uri = str(tmp_path / "catalog")
    run = prepare(job(toy, options={"shade": 0.25}), uri)
    stopped = execute(run, stream=draw_here)
    next(stopped)
    next(stopped)  # the first batch is published
    stopped.close()
    *_, last = execute(prepare_resume(run.run_id, uri), stream=draw_here)
    assert last.complete
    assert (last.published, last.drawn) == (2, 2)
    rows = sql(Catalog(uri), "SELECT * FROM samples").to_pylist()
    assert len({row["image_id"] for row in rows}) == 4
    assert {row["method"] for row in rows} == {"toy"}
    assert {json.loads(row["recipe"])["options"] for row in rows} == {'{"shade":0.25}'}
    assert max(np.max(published_pixels(row)[0]) for row in rows) <= 255 // 4
    outcomes = regenerate_images(uri, image_ids=[row["image_id"] for row in rows])
    assert [outcome.tier for outcome in outcomes] == [0] * 4


def test_a_new_method_is_trained_by_the_same_command(toy: Generator, tmp_path: Path) -> None:
    split, config = tmp_path / "split.json", tmp_path / "toy.yaml"
    known = {"method": "toy", "name": "mine", "base": str(toy.folder), "lora": {"rank": 2}}
    known |= {"training": {"steps": 1, "batch_size": 2}, "validation": {"draw_every": None}}
    config.write_text(yaml.safe_dump(known | {"only": ["monocyte"]}))
    where = ["--data", "smear:30?size=16", "--split", split, "--output", tmp_path / "run"]
    for words in (
        ["real", "split", "smear:30?size=16", "--out", split],
        ["finetune", "--config", config, *where, "--without-ray"],
    ):
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == 0, (done.output, done.exception)
    trained = open_generator(tmp_path / "run" / "generator")
    assert trained.method == "toy"
    run = prepare(job(trained, num_images=2, options={"shade": 0.25}), str(tmp_path / "catalog"))
    *_, last = execute(run, stream=draw_here)
    assert (last.complete, last.drawn) == (True, 2)


def test_its_options_are_its_own_and_decide_the_run(toy: Generator) -> None:
    plain, dark = (prepare(job(toy, **more), "unused") for more in ({}, {"options": {"shade": 0}}))
    assert plain.run_id != dark.run_id
    with pytest.raises(ConfigError, match="unknown key 'hue'"):
        prepare(job(toy, options={"hue": 1}), "unused")
    with pytest.raises(ConfigError, match="method 'pairs' is not that of generator"):
        prepare(job(toy, method="pairs"), "unused")


def test_every_method_says_who_it_is() -> None:
    for name in METHODS:
        method = find_method(name)
        assert isinstance(method, Method)
        assert method.name == name
    assert invertible_methods() == ["text", "class_conditional"]
    with pytest.raises(ConfigError, match="Choose one of text, class_conditional, pairs, bridge"):
        find_method("toy")
