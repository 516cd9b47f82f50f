"""The README's commands work as printed, on a drawn demo set and a catalog of a tiny model."""

import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.query import sql
from catalog.releasing import create_release
from catalog.table import Catalog
from factory.models.generator import Generator
from factory.sample.session import start_run

README = Path(__file__).parents[1] / "README.md"
LINES = [
    re.sub(r"\s+#.*$", "", line.strip())
    for line in README.read_text().splitlines()
    if line.startswith("    factory ")
]
DRAWS = [line for line in LINES if line.startswith("factory generate") and "--resume" not in line]
READS = [line for line in LINES if not line.startswith("factory generate")]


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, tiny: Generator, local_ray: None
) -> tuple[Path, str]:
    """A folder with `my-images` and `wbc-catalog` in it, and an image id of the catalog."""
    from factory.real.smear import write_smear
    from factory.sample.run import execute

    folder = tmp_path_factory.mktemp("home")
    write_smear(folder / "my-images", 40, seed=0)
    classes = "classes={monocyte: a monocyte, lymphocyte: a lymphocyte}"
    run = start_run(
        source="wbc",
        overrides=[
            f"model={tiny.folder}",
            classes,
            "batch_size=4",
            "num_inference_steps=2",
            "stream.actors=1",
        ],
        num_images=8,
        catalog_uri=str(folder / "wbc-catalog"),
    )
    list(execute(run))
    create_release(folder / "wbc-catalog", "wbc", now=datetime.now(UTC), code_version="test")
    rows = sql(Catalog(folder / "wbc-catalog"), "SELECT image_id FROM samples LIMIT 1")
    return folder, rows["image_id"][0].as_py()


def test_the_readme_has_commands() -> None:
    assert len(READS) >= 8
    assert len(DRAWS) >= 2


@pytest.mark.ray
@pytest.mark.parametrize("line", READS)
def test_a_command_of_the_readme_runs(line: str, home: tuple[Path, str]) -> None:
    folder, image_id = home
    _, *arguments = shlex.split(line.replace("IMAGE_ID", image_id))
    code = "from factory.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", DRAWS)
def test_a_drawing_command_of_the_readme_is_a_valid_run(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    pairs = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    count = int(words[words.index("--num-images") + 1]) if "--num-images" in words else None
    run = start_run(
        source="wbc", overrides=pairs, num_images=count, catalog_uri=str(tmp_path / "catalog")
    )
    assert run.plan.num_images == (count or 320)
    assert run.generator.name == "wbc-base"
