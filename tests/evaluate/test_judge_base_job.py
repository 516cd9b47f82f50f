"""The job as a user calls it: what is wrong becomes one line that names it."""

import importlib.util
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from factory.models.generator import Generator

JOB = Path(__file__).parents[2] / "jobs" / "judge_base.py"


@pytest.fixture(scope="module")
def job() -> click.Command:
    spec = importlib.util.spec_from_file_location("judge_base_job", JOB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_a_missing_split_is_one_line_that_names_it(
    job: click.Command, tiny: Generator, tmp_path: Path
) -> None:
    split = tmp_path / "split.json"
    arguments = {
        "--generator": tiny.folder,
        "--data": "smear:20?size=16",
        "--split": split,
        "--features": tmp_path / "absent.safetensors",
        "--out": tmp_path / "out",
    }
    call = [str(part) for pair in arguments.items() for part in pair]
    found = CliRunner().invoke(job, call)
    assert found.exit_code == 1
    assert found.stderr.startswith(f"error: {split} is not a readable split file")
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
