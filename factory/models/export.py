"""Writes a trained generator as a diffusers folder that anyone's `from_pretrained` loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from factory.atomic import new_folder
from factory.method import find_method
from factory.models.attention_layout import WINDOW_NOTE, add_notes, unet_file
from factory.models.folder import MANIFEST
from factory.models.generator import Generator, open_generator
from factory.models.windowed import attention_window
from factory.terminal import quiet_libraries


def write_generator(
    folder: Path,
    *,
    parts: Mapping[str, Any],
    manifest: Mapping[str, Any],
    card: str,
    files: Mapping[str, bytes] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Generator:
    """Write `folder` atomically and return the generator in it.

    Args:
        parts: 'unet', 'vae', 'scheduler' as diffusers expects them, and, where prompts are read,
            'text_encoder' and 'tokenizer'.
        manifest: the content of `factory.json`: name, method, size_px, class_names, split_digest,
            dataset_fingerprint, base_model_id, config.
        card: Markdown with front matter, written as README.md.
        files: name -> content of what else lies there, such as pictures that the card shows.
        dtype: of the stored weights.
    """
    kind, extra = find_method(manifest.get("method", "text")).pipeline()
    pipeline = kind(**parts, **extra)
    with new_folder(folder) as work, quiet_libraries():
        pipeline.to(dtype=dtype).save_pretrained(work, safe_serialization=True)
        _forget_places(work)
        if window := attention_window(pipeline.unet):
            add_notes(unet_file(work), {WINDOW_NOTE: str(window)})
        (work / MANIFEST).write_text(json.dumps(dict(manifest), indent=1, sort_keys=True) + "\n")
        (work / "README.md").write_text(card)
        for name, content in (files or {}).items():
            (work / name).write_bytes(content)
    return open_generator(folder)


def _forget_places(folder: Path) -> None:
    """Drop the paths from which parts were loaded: they say where somebody's files lie."""
    for path in folder.rglob("*.json"):
        stored = json.loads(path.read_text())
        if isinstance(stored, dict) and stored.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
