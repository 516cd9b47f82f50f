"""The job of before is `factory pretrain` under its old options."""

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from factory.errors import ConfigError

JOB = Path(__file__).parents[2] / "jobs" / "pretrain_base.py"


def test_old_options_are_keys_of_the_configuration(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pretrain_base", JOB)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    words = ["--data", "cells", "--output", str(tmp_path), "--workers", "4", "--without-ray"]
    told = CliRunner().invoke(job.main, [*words, "--perceptual-weights", "nowhere.safetensors"])
    assert isinstance(told.exception, ConfigError)
    assert "nowhere.safetensors" in str(told.exception)
    with pytest.raises(ConfigError, match="autoencoder is"):
        CliRunner().invoke(job.main, [*words, "--set", "autoencoder=7"], catch_exceptions=False)
