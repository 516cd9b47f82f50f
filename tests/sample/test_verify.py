"""A release of drawn images, copied elsewhere, holds every digest and is redrawn bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog.releases import verify_release
from catalog.tombstones import Mark, record_tombstones
from catalog.upkeep import optimize
from factory.cli import cli
from factory.errors import CatalogError, ConfigError
from factory.models.generator import Generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.regenerate import redraw_release
from factory.sample.run import execute
from tests.catalog.test_releases import MADE


def config(tiny: Generator, **changes: object) -> GenerateConfig:
    known = {
        "model": str(tiny.folder),
        "num_images": 9,
        "classes": {name: f"a {name}" for name in tiny.class_names},
        "num_inference_steps": 2,
        "batch_size": 4,
        "seed": 5,
        "gates": {"min_contrast": None, "max_clipped": None, "min_sharpness": None},
    }
    return GenerateConfig.model_validate(known | changes)


@pytest.fixture(scope="module")
def fresh_copy(tiny: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released and compacted catalog, copied to another place, the original gone."""
    from catalog.releasing import create_release

    folder = tmp_path_factory.mktemp("drawn")
    uri = folder / "here"
    list(execute(prepare(config(tiny), str(uri)), stream=draw_here))
    create_release(uri, "tiny", **MADE)
    optimize(uri)
    shutil.move(uri, folder / "there")
    return folder / "there"


def test_a_copy_verifies_and_every_image_is_redrawn_identical(fresh_copy: Path) -> None:
    found = verify_release(fresh_copy, "tiny")
    assert (found.problems, found.num_images, found.num_files) == ([], 9, 3)
    outcomes = list(redraw_release(str(fresh_copy), "tiny", 99))
    assert [str(outcome) for outcome in outcomes] == ["identical"] * 9


def test_which_images_are_redrawn_depends_on_the_seed_alone(fresh_copy: Path) -> None:
    ids = [
        {outcome.image_id for outcome in redraw_release(str(fresh_copy), "tiny", 3, seed=seed)}
        for seed in (0, 0, 1)
    ]
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(ConfigError, match="1 or more"):
        list(redraw_release(str(fresh_copy), "tiny", 0))


def test_the_command_says_the_tier(fresh_copy: Path) -> None:
    arguments = ["release", "verify", "tiny", "--redraw", "2", "--catalog", str(fresh_copy)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "tiny@1.0.0 (created) holds; 3 files, 9 images" in result.output
    assert result.output.endswith("2 redrawn: 2 identical\n")


def test_lineage_of_a_drawn_image_names_its_generator(fresh_copy: Path, tiny: Generator) -> None:
    arguments = ["lineage", tiny.model_id, "--json", "--catalog", str(fresh_copy)]
    node = json.loads(CliRunner().invoke(cli, arguments).output)
    assert (node["kind"], node["facts"]["name"]) == ("generator", "tiny-0")
    assert node["results"][0]["facts"] == {"accepted": 9}


def test_a_generator_whose_real_image_was_forgotten_draws_no_more(
    tiny: Generator, fresh_copy: Path, tmp_path: Path
) -> None:
    uri = str(shutil.copytree(fresh_copy, tmp_path / "catalog"))
    mark = Mark(kind="model", target_id=tiny.model_id, because="train")
    record_tombstones(uri, "patient/1", [mark], **MADE)
    run = prepare(config(tiny, seed=6), uri)
    with pytest.raises(CatalogError, match=r"tiny.* forgotten since.*Train it again"):
        list(execute(run, stream=draw_here))
