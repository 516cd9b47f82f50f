"""Generator folders: found, checked, named by the digest of what decides pixels."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from factory.errors import ModelError
from factory.models.generator import (
    RINGS_FILE,
    SEEN,
    Generator,
    find_generator,
    open_generator,
)
from factory.models.pipeline import load_pipeline
from factory.real.field import Shown
from factory.sample.prepare import lineage
from tests.fakes.families import tiny_pipeline


@pytest.fixture
def copy(tiny: Generator, tmp_path: Path) -> Path:
    return shutil.copytree(tiny.folder, tmp_path / "copy")


def test_a_copy_elsewhere_is_the_same_model(tiny: Generator, copy: Path) -> None:
    assert open_generator(copy).model_id == tiny.model_id


def test_one_changed_weight_is_another_model(tiny: Generator, copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert open_generator(copy).model_id != tiny.model_id


def test_the_card_does_not_name_the_model(tiny: Generator, copy: Path) -> None:
    (copy / "README.md").write_text("another text")
    assert open_generator(copy).model_id == tiny.model_id


@pytest.mark.parametrize(
    "name",
    ["unet/model.bin", "extra.pkl", "text_encoder/x.ckpt", "a.pt", "unet/a.PT", "x.npz", "x.py"],
)
def test_a_pickle_in_the_folder_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=Path(name).name):
        open_generator(copy)


def test_a_linked_folder_is_looked_into(tiny: Generator, copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "unet", tmp_path / "elsewhere")
    (copy / "unet").symlink_to(tmp_path / "elsewhere")
    assert open_generator(copy).model_id == tiny.model_id
    (tmp_path / "elsewhere" / "x.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"x\.bin may run code"):
        open_generator(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": ', "no readable JSON"),
        ("[1, 2]", "holds no JSON object"),
        ('{"size_px": "big"}', "size_px is 'big'"),
        ('{"size_px": -16}', "size_px is -16"),
        ('{"size_px": 17}', "size_px is 17: .*multiple of 8"),
        ('{"class_names": "abc"}', "class_names is 'abc'"),
        ('{"class_names": ["a", "a"]}', "class_names is .*named twice"),
        ('{"config": [1]}', "config is"),
        ('{"method": null}', "method is None"),
        ('{"field": {"crop": "half"}}', "field.crop is 'half': .*no part of a frame"),
        ('{"field": {"pixel_size_um": 0}}', "field.pixel_size_um is 0"),
        (None, "no readable JSON"),
    ],
)
def test_a_broken_manifest_is_named_with_its_key(
    copy: Path, text: str | None, message: str
) -> None:
    manifest = copy / "factory.json"
    manifest.unlink()
    manifest.mkdir() if text is None else manifest.write_text(text)
    with pytest.raises(ModelError, match=f"factory.json.*{message}"):
        open_generator(copy)


def test_what_it_learnt_to_show_is_read_from_its_manifest(tiny: Generator, copy: Path) -> None:
    assert tiny.field == Shown()
    stored = {**tiny.manifest, "field": {"crop": "0.711", "pixel_size_um": 0.5}}
    (copy / "factory.json").write_text(json.dumps(stored))
    found = open_generator(copy)
    assert found.model_id == tiny.model_id
    assert (found.field.crop, found.field.pixel_size_um) == ("0.711", 0.5)
    assert found.learnt().field_um == 0.5 * found.size_px
    assert found.learnt().told.endswith("learnt (the central 0.711 of their frames)")
    assert lineage(found)["pixel_size_um"] == 0.5
    assert lineage(found)["crop"] == "0.711"


def test_the_embedded_base_says_that_it_draws_the_middle_of_its_frames() -> None:
    field = find_generator("wbc-base").field
    assert field.crop == "0.711"  # the central 256 of 360 px
    assert set(field.objects.means) == set(find_generator("wbc-base").class_names)


def test_a_folder_without_manifest_tells_its_size_by_its_unet(copy: Path) -> None:
    (copy / "factory.json").unlink()
    found = open_generator(copy)
    assert (found.size_px, found.class_names) == (32, ())  # 8 pixels a latent, as Stable Diffusion
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"sample_size": 4', '"sample_size": null'))
    with pytest.raises(ModelError, match=r"no sample_size .*Write size_px"):
        _ = open_generator(copy).size_px


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("unet", "unet holds no configuration"),
        ("tokenizer", "tokenizer holds no configuration"),
        ("scheduler/scheduler_config.json", "scheduler holds no configuration"),
        ("vae/diffusion_pytorch_model.safetensors", "vae holds no weights"),
    ],
)
def test_a_missing_part_is_named_before_anything_is_loaded(
    copy: Path, broken: str, message: str
) -> None:
    place = copy / broken
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(ModelError, match=message):
        open_generator(copy)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_a_broken_configuration_is_named(copy: Path, name: str) -> None:
    (copy / name).write_text("{")
    with pytest.raises(ModelError, match=f"{name} is no readable JSON"):
        open_generator(copy)


def test_a_truncated_weight_file_is_refused_by_name(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"unet.*truncated"):
        open_generator(copy)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        open_generator(tmp_path)


@pytest.mark.parametrize("name", ["no-such-model", "~nobody-here/model"])
def test_a_missing_generator_names_the_embedded_ones(name: str) -> None:
    with pytest.raises(ModelError, match="wbc-base"):
        find_generator(name)


def test_a_hub_model_without_a_pinned_revision_is_refused() -> None:
    with pytest.raises(ModelError, match="no pinned revision"):
        find_generator("owner/name")


def test_a_checkpoint_in_a_single_file_is_told_how_it_becomes_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"is a file.*from_single_file"):
        find_generator(str(path))


def test_of_a_hub_each_part_is_fetched_once_and_no_model_in_one_file_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub cannot be here: what it is asked for is copied from a folder instead."""
    hub, cache = tiny_pipeline("sdxl", tmp_path / "hub"), tmp_path / "cache"
    for path in hub.glob("*/*.safetensors"):  # a second precision of all, and of one part alone
        shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    (hub / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (hub / "sdxl.safetensors").write_bytes(b"a whole model")
    (hub / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    for name in (SEEN, RINGS_FILE):  # what checks leaks and copies
        (hub / name).write_bytes(b"")

    def snapshot_download(
        name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str] = ()
    ) -> str:
        for path in hub.rglob("*"):
            asked = str(path.relative_to(hub))
            wanted = any(fnmatch(asked, pattern) for pattern in allow_patterns)
            if wanted and not any(fnmatch(asked, pattern) for pattern in ignore_patterns):
                (cache / asked).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / asked)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    generator = find_generator("owner/name", revision="0" * 40)
    weights = sorted(str(path.relative_to(cache)) for path in cache.rglob("*.safetensors"))
    assert weights == [
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert load_pipeline(generator).vae.config.scaling_factor > 0
    assert {path.name for path in cache.glob("*.parquet")} == {SEEN, RINGS_FILE}
