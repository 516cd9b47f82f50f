"""The commands of README and docs: known as printed, and those of one's own catalog run.

They run on a drawn demo set and a catalog of a tiny model.
"""

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog.query import sql
from catalog.releasing import create_release
from catalog.table import Catalog
from factory.cli import cli
from factory.config import preset_names
from factory.models.generator import Generator
from factory.sample.session import start_run
from tests.fakes.readme import (
    JOURNEY,
    PAGES,
    README,
    ROOT,
    commands,
    mentioned,
    presets,
    refused,
    scripts,
    section,
    targets,
    unknown,
)

STORY = commands(section(JOURNEY))
"""What tests/test_journey.py runs."""
RUN = [
    README,
    *(ROOT / "docs" / name for name in ("real.md", "draw.md", "catalog.md")),
    *(ROOT / "docs" / name for name in ("export.md", "release.md")),
]
"""Pages whose commands want no more than images and a catalog."""
LINES = [
    words
    for page in RUN
    for words in commands(page.read_text())
    # those of tests/test_journey.py and test_start.py; a mark that tiny pictures cannot carry
    if words not in STORY and words[0] != "start" and "watermark" not in words
]
DRAWS = [words for words in LINES if words[0] == "generate" and "--resume" not in words]
READS = [words for words in LINES if words[0] != "generate"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny: Generator) -> tuple[Path, str, str]:
    """A folder with images, their split and a catalog; an image id of the catalog, and its run."""
    from factory.real.smear import write_smear
    from factory.sample.batches import draw_here
    from factory.sample.run import execute

    folder = tmp_path_factory.mktemp("home")
    write_smear(folder / "my-images", 40, seed=0)
    words = ["real", "split", str(folder / "my-images"), "--out", str(folder / "split.json")]
    assert CliRunner().invoke(cli, words).exit_code == 0
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
    list(execute(run, stream=draw_here))
    create_release(folder / "wbc-catalog", "wbc", now=datetime.now(UTC), code_version="test")
    rows = sql(Catalog(folder / "wbc-catalog"), "SELECT image_id FROM samples LIMIT 1")
    return folder, rows["image_id"][0].as_py(), run.run_id


def test_the_readme_has_commands() -> None:
    assert len(READS) >= 8
    assert len(DRAWS) >= 1
    assert len(STORY) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there_and_takes_what_it_is_given(page: Path) -> None:
    text = page.read_text()
    typed = commands(text)
    wrong = {shlex.join(words): [*unknown(words)] for words in [*typed, *mentioned(text)]}
    for words in typed:
        wrong[shlex.join(words)] += refused(words)
    assert {words: why for words, why in wrong.items() if why} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_presets_targets_and_scripts_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    assert presets(text) <= {name.removesuffix(".yaml") for name in preset_names()}
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets(text) <= set(made)
    assert [path for path in sorted(scripts(text)) if not _script(path)] == []


def _script(path: str) -> bool:
    return (ROOT / path).is_file() or (ROOT / path.removesuffix(".py") / "__main__.py").is_file()


def test_a_wrong_preset_key_value_and_option_are_found() -> None:
    """What keeps the tests above from finding nothing."""
    for line, told in {
        "generate --config absent": "no configuration",
        "generate --set guidance=2": "unknown key",
        "generate --set num_inference_steps=many": "num_inference_steps",
        "evaluate --set learner.turn=2": "unknown key",
        "finetune --config polyp_pairs_train --set lora.rank=high": "lora.rank",
        "catalog sheet --out": "requires an argument",
        "ablate --vary alignment.wait=0,1": "unknown key",
    }.items():
        assert any(told in why for why in refused(line.split())), line
    assert [*unknown(["catalog", "sheets"])] == ["sheets"]
    assert [*unknown(["--log-format", "json", "generate", "--seed"])] == ["--seed"]


@pytest.mark.parametrize("words", READS, ids=shlex.join)
def test_a_command_of_a_page_runs(
    words: list[str], home: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, image_id, run_id = home
    named = {"IMAGE_ID": image_id, "RUN": run_id}
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli, [named.get(word, word) for word in words])
    assert done.exit_code == 0, done.output
    assert done.stdout


@pytest.mark.parametrize("words", DRAWS, ids=shlex.join)
def test_a_drawing_command_of_a_page_is_a_valid_run(words: list[str], tmp_path: Path) -> None:
    pairs = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    count = int(words[words.index("--num-images") + 1]) if "--num-images" in words else None
    run = start_run(
        source="wbc", overrides=pairs, num_images=count, place=str(tmp_path / "catalog")
    )
    assert run.plan.num_images == (count or 320)
    assert run.generator.name == "wbc-base"
