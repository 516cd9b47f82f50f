"""Domains: generators bound by digest, and refused where their latents mean different things."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from factory.errors import ConfigError, ModelError
from factory.models.attention_layout import HEADS_THEN_QKV, LAYOUT_NOTE, add_notes, unet_file
from factory.models.domains import domains_of, latent_space, parse_domains, write_domains
from factory.models.generator import Generator, find_generator
from factory.sample.commands import bridge
from tests.fakes.bridge import two_generators
from tests.fakes.tiny import tiny_generator

NAMES = ("lymphocyte", "monocyte")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Generator]:
    return two_generators(tmp_path_factory.mktemp("two"), NAMES)


@pytest.fixture
def copies(made: tuple[Generator, Generator], tmp_path: Path) -> tuple[Path, Path]:
    """Folders of the two that a test may change."""
    return tuple(shutil.copytree(each.folder, tmp_path / each.folder.name) for each in made)


def chosen(*folders: Path) -> dict[str, tuple[str, str | None]]:
    return {name: (str(folder), None) for name, folder in zip(NAMES, folders, strict=True)}


def test_the_classes_of_one_generator_are_domains(tiny: Generator):
    found = domains_of(tiny)
    assert list(found) == list(tiny.class_names)
    assert found["monocyte"].class_name == "monocyte"
    assert found["monocyte"].prompt == "a monocyte"
    assert found["monocyte"].weights == tiny.folder


def test_bound_generators_are_found_again_and_can_be_moved_together(
    copies: tuple[Path, Path], tmp_path: Path
):
    bound = write_domains(tmp_path / "bridge", chosen(*copies))
    assert bound.method == "bridge"
    assert bound.class_names == NAMES
    assert bound.size_px == 16
    assert [d.generator.folder.resolve() for d in domains_of(bound).values()] == [*copies]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (*copies, tmp_path / "bridge"):
        shutil.move(path, moved / path.name)
    again = find_generator(str(moved / "bridge"))
    assert again.model_id == bound.model_id
    assert domains_of(again)["monocyte"].generator.folder.resolve() == moved / "monocyte"


def test_the_name_is_a_digest_of_what_is_bound(copies: tuple[Path, Path], tmp_path: Path):
    bound = write_domains(tmp_path / "bridge", chosen(*copies))
    turned = write_domains(tmp_path / "turned", chosen(*reversed(copies)))
    assert bound.model_id != turned.model_id
    path = unet_file(copies[1])
    state = load_file(path)
    save_file({name: value + 1 for name, value in state.items()}, path)
    with pytest.raises(ModelError, match=r"domain 'monocyte' of .* is generator"):
        domains_of(bound)


def test_another_latent_space_is_refused(copies: tuple[Path, Path], tmp_path: Path):
    other = tiny_generator(tmp_path / "other", seed=5, class_names=("monocyte",))
    with pytest.raises(ModelError, match="'lymphocyte' and 'monocyte' differ in latent space"):
        write_domains(tmp_path / "bridge", chosen(copies[0], other.folder))


def test_one_latent_space_may_be_stored_in_two_precisions(copies: tuple[Path, Path]):
    for path in (copies[0] / "vae").glob("*.safetensors"):
        save_file({k: v.half() for k, v in load_file(path).items()}, path)
    half = latent_space(copies[0])
    for path in (copies[0] / "vae").glob("*.safetensors"):
        save_file({k: v.float() for k, v in load_file(path).items()}, path)
    assert latent_space(copies[0]) == half != latent_space(copies[1])


def test_another_attention_layout_is_refused(copies: tuple[Path, Path], tmp_path: Path):
    add_notes(unet_file(copies[1]), {LAYOUT_NOTE: HEADS_THEN_QKV})
    with pytest.raises(ModelError, match="attention layout: separate and heads_then_qkv"):
        write_domains(tmp_path / "bridge", chosen(*copies))


def test_another_noise_schedule_is_refused(copies: tuple[Path, Path], tmp_path: Path):
    path = copies[1] / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.02}))
    with pytest.raises(ModelError, match="differ in noise schedule"):
        write_domains(tmp_path / "bridge", chosen(*copies))


def test_unknown_classes_and_single_domains_are_refused(tiny: Generator, tmp_path: Path):
    folder = str(tiny.folder)
    with pytest.raises(ConfigError, match="a bridge of 1 domains"):
        write_domains(tmp_path / "bridge", {"a": (folder, "monocyte")})
    with pytest.raises(ConfigError, match="has no class 'eosinophil'"):
        write_domains(tmp_path / "b", {"a": (folder, "monocyte"), "b": (folder, "eosinophil")})
    with pytest.raises(ConfigError, match="has no class 'b'"):
        write_domains(tmp_path / "b", {"a": (folder, "monocyte"), "b": (folder, None)})


def test_classes_of_one_generator_can_be_bound_under_other_names(tiny: Generator, tmp_path: Path):
    folder = str(tiny.folder)
    bound = write_domains(
        tmp_path / "b", {"clinic": (folder, "monocyte"), "here": (folder, "lymphocyte")}
    )
    assert {n: d.class_name for n, d in domains_of(bound).items()} == {
        "clinic": "monocyte",
        "here": "lymphocyte",
    }
    assert dict(bound.prompts) == {"clinic": "a monocyte", "here": "a lymphocyte"}


def test_a_broken_manifest_is_one_clear_error(tiny: Generator, tmp_path: Path):
    folder = str(tiny.folder)
    bound = write_domains(tmp_path / "b", {n: (folder, n) for n in NAMES})
    path = bound.folder / "factory.json"
    stored = json.loads(path.read_text())
    stored["domains"]["monocyte"].pop("model_id")
    path.write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="model_id"):
        find_generator(str(bound.folder))


def test_domains_are_read_from_the_command_line():
    assert parse_domains(["a=runs/a", "b c=runs/b:monocyte"]) == {
        "a": ("runs/a", None),
        "b c": ("runs/b", "monocyte"),
    }
    with pytest.raises(ConfigError, match="'a' is no NAME=MODEL"):
        parse_domains(["a"])
    with pytest.raises(ConfigError, match="'a=y' is there twice"):
        parse_domains(["a=x", "a=y"])


def test_the_command_binds(tiny: Generator, tmp_path: Path):
    asked = [f"--domain={name}={tiny.folder}:{name}" for name in NAMES]
    result = CliRunner().invoke(bridge, [*asked, "--out", str(tmp_path / "b")])
    assert result.exit_code == 0
    bound = find_generator(str(tmp_path / "b"))
    assert f"lymphocyte <-> monocyte, model_id {bound.model_id}" in result.output
