"""The README's commands work as printed, on a drawn demo set and a catalog of a tiny model."""

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
from tests.fakes.readme import JOURNEY, README, ROOT, commands, mentioned, section, unknown

STORY = commands(section(JOURNEY))
"""What tests/test_journey.py runs."""
LINES = [words for words in commands(README.read_text()) if words not in STORY]
DRAWS = [words for words in LINES if words[0] == "generate" and "--resume" not in words]
READS = [words for words in LINES if words[0] != "generate"]
PAGES = [
    README,
    ROOT / "factory" / "agent" / "skill.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


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
        place=str(folder / "wbc-catalog"),
    )
    list(execute(run))
    create_release(folder / "wbc-catalog", "wbc", now=datetime.now(UTC), code_version="test")
    rows = sql(Catalog(folder / "wbc-catalog"), "SELECT image_id FROM samples LIMIT 1")
    return folder, rows["image_id"][0].as_py()


def test_the_readme_has_commands() -> None:
    assert len(READS) >= 8
    assert len(DRAWS) >= 1
    assert len(STORY) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    typed = [*commands(text), *mentioned(text)]
    assert {shlex.join(words): list(unknown(words)) for words in typed if any(unknown(words))} == {}


@pytest.mark.ray
@pytest.mark.parametrize("words", READS, ids=shlex.join)
def test_a_command_of_the_readme_runs(words: list[str], home: tuple[Path, str]) -> None:
    folder, image_id = home
    arguments = [word.replace("IMAGE_ID", image_id) for word in words]
    code = "from factory.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("words", DRAWS, ids=shlex.join)
def test_a_drawing_command_of_the_readme_is_a_valid_run(words: list[str], tmp_path: Path) -> None:
    pairs = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    count = int(words[words.index("--num-images") + 1]) if "--num-images" in words else None
    run = start_run(
        source="wbc", overrides=pairs, num_images=count, place=str(tmp_path / "catalog")
    )
    assert run.plan.num_images == (count or 320)
    assert run.generator.name == "wbc-base"
