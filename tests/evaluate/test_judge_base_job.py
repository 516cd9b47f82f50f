"""The job as a user calls it: what is wrong becomes one line that names it."""

import subprocess
import sys
from pathlib import Path

from factory.models.generator import Generator

JOB = Path(__file__).parents[2] / "jobs" / "judge_base.py"


def test_a_missing_split_is_one_line_that_names_it(tiny: Generator, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    arguments = {
        "--generator": tiny.folder,
        "--data": "smear:20?size=16",
        "--split": split,
        "--features": tmp_path / "absent.safetensors",
        "--out": tmp_path / "out",
    }
    call = [str(part) for pair in arguments.items() for part in pair]
    found = subprocess.run([sys.executable, str(JOB), *call], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: {split} is not a readable split file")
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
