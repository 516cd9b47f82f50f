"""What a generator's folder must hold before anything in it is loaded: checked files, safe ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from factory.config import parse_config
from factory.errors import ConfigError, ModelError
from factory.real.field import Shown
from factory.tree import files_below

INDEX, MANIFEST = "model_index.json", "factory.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".dill", ".joblib", ".npy", ".npz")
UNSAFE = (*PICKLES, ".h5", ".msgpack", ".py")
"""Suffixes of pickles, other frameworks' weights and code: some loader might run them."""

_DECIDING = (".safetensors", ".json", ".txt", ".model", ".jinja")
_NOT_LOADED = ("safety_checker",)


class _Bound(BaseModel):
    """One entry of `domains`, see `factory.models.domains`."""

    model_config = ConfigDict(extra="forbid")

    model: str
    model_id: str
    class_name: str


class _Distilled(BaseModel):
    """By what settings alone a student is drawn, see `factory.distill`."""

    model_config = ConfigDict(extra="forbid")

    scheduler: str
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0)
    teacher: str


class _Manifest(BaseModel):
    """What `factory.json` may say, as far as the factory itself reads it."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    method: str = "text"
    size_px: int | None = Field(None, gt=0, multiple_of=8)
    class_names: tuple[str, ...] = ()
    prompts: dict[str, str] = Field({})
    base_model_id: str | None = None
    split_digest: str | None = None
    dataset_fingerprint: str | None = None
    licence: str | None = None
    config: dict[str, Any] = Field({})
    domains: dict[str, _Bound] = Field({})
    distilled: _Distilled | None = None
    field: Shown | None = None
    gates: dict[str, Any] | None = None

    @field_validator("class_names")
    @classmethod
    def _unique(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a class is named twice")
        return names


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the checked content of `factory.json`; empty where there is none.

    Raises:
        ModelError: no JSON object, or a key of another type than the factory writes.
    """
    path = folder / MANIFEST
    stored = read_json(path) if path.exists() else {}
    try:
        parse_config(_Manifest, stored, where=str(path))
    except ConfigError as error:
        raise ModelError(error.what, remedy=_RESTORE) from error
    return stored


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ModelError: missing, not readable, no JSON, or no object.
    """
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no readable JSON ({error})", remedy=_RESTORE) from error
    if not isinstance(stored, dict):
        raise ModelError(f"{path} holds no JSON object", remedy=_RESTORE)
    return stored


def check_folder(folder: Path) -> None:
    """Check the files of a generator, and the parts that its model_index.json lists, if any.

    Raises:
        ModelError: a file that may run code, truncated weights, or a part that is not there.
    """
    for path in _files(folder):
        if path.suffix.lower() in UNSAFE:
            raise ModelError(
                f"{path} may run code when it is loaded ({path.suffix})",
                remedy="Convert the weights to safetensors and remove this file",
            )
        if path.suffix == ".safetensors":
            _check_whole(path)
    if (folder / INDEX).is_file():
        for name, listed in read_json(folder / INDEX).items():
            if isinstance(listed, list) and any(listed) and name not in _NOT_LOADED:
                _check_part(folder / name)


def deciding_files(folder: Path) -> list[str]:
    """Return weights, configurations and vocabularies: all but the manifest and the card."""
    return sorted(
        str(path.relative_to(folder))
        for path in _files(folder)
        if path.suffix in _DECIDING and path.name != MANIFEST
    )


def variant_of(folder: Path) -> str | None:
    """Return which of a folder's weights are to be read: 'fp16' where a part has only such."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = [path.name for path in part.glob("*.safetensors")]
        if names and all(name.count(".") > 1 for name in names):
            return names[0].split(".")[-2].partition("-")[0]
    return None


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from files_below(folder)
    except OSError as error:
        raise ModelError(
            f"{error.filename} cannot be read ({error.strerror})",
            remedy="Correct its permissions, or remove it",
        ) from error


def _check_part(part: Path) -> None:
    """Raise unless a part has its configuration and, if it is a network, its weights."""
    configs = sorted(part.glob("*config.json"))
    if not configs:
        raise ModelError(f"{part} holds no configuration, though {INDEX} lists it", remedy=_RESTORE)
    for path in configs:
        read_json(path)
    if (part / "config.json").exists() and not any(part.glob("*.safetensors")):
        raise ModelError(
            f"{part} holds no weights (*.safetensors)",
            remedy="Save the pipeline with safe_serialization=True, or copy the model again",
        )


def _check_whole(path: Path) -> None:
    """Raise unless the header and all tensors of a safetensors file are there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"weights {path} are truncated or no safetensors file ({error})",
            remedy="Copy or train the model again",
        ) from error


_RESTORE = "Restore the file as `save_pretrained` or the factory wrote it"
