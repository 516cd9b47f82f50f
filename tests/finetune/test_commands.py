"""`factory finetune` over a table of a user's own: columns by name, exact files, one command."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from factory.cli import cli
from factory.errors import ConfigError, FactoryError
from factory.finetune.class_config import ClassConditionalConfig
from factory.finetune.config import FinetuneConfig
from factory.finetune.methods import load_training
from factory.models.generator import open_generator
from tests.finetune.test_class_conditional import TINY

COLUMNS = ["--label", "blastocist", "--image", "IMAGE_NAME", "--group", "embryo"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table as BlastDiffusion's users have: names of files that lie elsewhere, 0/1 outcomes."""
    (tmp_path / "pictures").mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(20):
        name = f"oocyte_{number:02}.png"
        noise = rng.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / name)
        rows.append({"IMAGE_NAME": name, "blastocist": number % 2, "embryo": number // 2})
    path = tmp_path / "clinic" / "outcomes.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def factory(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def columns_of(table: Path) -> list[object]:
    return [*COLUMNS, "--root", table.parent.parent / "pictures"]


def split_of(table: Path) -> Path:
    out = table.with_name("split.json")
    done = factory("real", "split", table, *columns_of(table), "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_a_table_of_names_and_outcomes_becomes_a_generator(table: Path) -> None:
    config = table.with_name("mine.yaml")
    tiny = {**TINY, "only": [], "validation": {"draw_every": None}}
    config.write_text(yaml.safe_dump(tiny))
    output, split = table.parent / "run", split_of(table)
    command = ["finetune", "--config", config, "--data", table, "--split", split]
    command += ["--output", output, "--without-ray"]
    done = factory(*command, *columns_of(table))
    assert done.exit_code == 0, done.output
    generator = open_generator(output / "generator")
    assert generator.method == "class_conditional"
    assert generator.class_names == ("0", "1")

    other = factory(*command)  # the columns are part of what was split
    assert isinstance(other.exception, FactoryError)


def test_a_missing_file_is_named_and_no_like_named_one_is_taken(table: Path) -> None:
    split, pictures = split_of(table), table.parent.parent / "pictures"
    (pictures / "oocyte_03.png").rename(pictures / "oocyte_3.png")
    command = ["finetune", "--config", "blastdiffusion_small", "--data", table, "--split", split]
    command += ["--output", table.parent / "run", "--without-ray", *columns_of(table)]
    done = factory(*command)
    assert isinstance(done.exception, FactoryError)
    assert "oocyte_03.png" in str(done.exception)

    skipped = factory("real", "describe", table, *columns_of(table), "--skip-broken")
    assert skipped.exit_code == 0
    assert "broken       1" in skipped.output
    assert "oocyte_03.png" in skipped.output


def test_a_folder_needs_no_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    done = factory("real", "describe", tmp_path, "--root", tmp_path)
    assert "is a folder, its images start there" in str(done.exception)


def test_the_configuration_says_the_method() -> None:
    assert load_training("cytodiff")[0].kind is FinetuneConfig
    training, config = load_training("blastdiffusion", ["training.steps=7"])
    assert training.kind is ClassConditionalConfig
    assert config.training.steps == 7
    with pytest.raises(ConfigError, match=r"unknown method .gan.*Choose one of text"):
        load_training("cytodiff", ["method=gan"])
    with pytest.raises(ConfigError, match=r"unknown key 'unet\.heads'.*Known keys: conditioning"):
        load_training("blastdiffusion", ["unet.heads=3"])
    with pytest.raises(ConfigError, match="unknown key 'unet'"):
        load_training("cytodiff", ["unet.num_attention_heads=3"])
