"""A generator made of a base and LoRAs: its folder, and its base with the right LoRA folded in.

    folder/factory.json            base, base_model_id, adapters, lora_scale, ...
    folder/lora/<class>/pytorch_lora_weights.safetensors      or   folder/lora/all/...
    folder/base/                   the base, where it was made for these LoRAs

Any of these LoRA folders loads with diffusers' `load_lora_weights` on the same base.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factory.atomic import new_folder
from factory.models.generator import BASE_FOLDER, BASE_LORA, LORA_FOLDER, Generator
from factory.models.lora import PARTS, Lora, LoraNotes, fuse_lora, open_lora, save_lora


def write_adapters(
    folder: Path,
    loras: Mapping[str, tuple[Mapping[str, Tensor], LoraNotes]],
    *,
    manifest: Mapping[str, Any],
    card: str,
    files: Mapping[str, bytes] | None = None,
    base: Path | None = None,
    base_lora: Path | None = None,
) -> None:
    """Write the folder atomically.

    Args:
        folder: of the new generator.
        loras: class, or `EVERY_CLASS`, -> tensors and notes.
        manifest: the content of `factory.json`, with 'base' and 'base_model_id'.
        card: Markdown, written as README.md.
        files: name -> content of what else lies there, such as pictures that the card shows.
        base: folder of a base that nobody else has: it is taken along.
        base_lora: file under which they were trained, likewise.
    """
    with new_folder(folder) as work:
        for name, (tensors, notes) in sorted(loras.items()):
            save_lora(work / LORA_FOLDER / name, tensors, notes)
        told = {**manifest, "adapters": sorted(loras)}
        (work / "factory.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        (work / "README.md").write_text(card)
        for name, content in (files or {}).items():
            (work / name).write_bytes(content)
        if base_lora is not None:
            _linked(str(base_lora), str(work / BASE_LORA))
        if base is not None:
            shutil.copytree(base, work / BASE_FOLDER, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    """Make a second name of a file, or a copy where names cannot be shared."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Adapted:
    """The pipeline of a base whose weights follow the LoRA that a recipe names."""

    def __init__(self, pipeline: Any, generator: Generator, *, base_model_id: str) -> None:
        """Read all LoRAs of `generator`; `pipeline` is its base's.

        Raises:
            ModelError: one is damaged, or was trained on another base.
        """
        self._pipeline, self._base_model_id = pipeline, base_model_id
        self._scale = float(generator.manifest.get("lora_scale", 1.0))
        self._loras = {
            digest: open_lora(generator.folder / LORA_FOLDER / name)
            for name, digest in generator.adapters.items()
        }
        self._original: dict[str, Tensor] = {}
        self._current: str | None = None

    @torch.no_grad()
    def use(self, adapter_id: str) -> bool:
        """Fold a LoRA into the untouched base, so that bits never drift; tell if that was new."""
        if adapter_id == self._current:
            return False
        self._restore()
        self._keep(self._loras[adapter_id])
        fuse_lora(
            self._pipeline,
            self._loras[adapter_id],
            base_model_id=self._base_model_id,
            scale=self._scale,
        )
        self._current = adapter_id
        return True

    def _parameters(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": parameter
            for part in PARTS
            if getattr(self._pipeline, part, None) is not None
            for name, parameter in getattr(self._pipeline, part).named_parameters()
        }

    def _keep(self, lora: Lora) -> None:
        """Remember the weights that `lora` is about to change."""
        known = self._parameters()
        for key in lora.tensors:
            if key.endswith(".lora_A.weight"):
                place = key.removesuffix(".lora_A.weight")
                names = (f"{place}.weight", f"{place.replace('.text_model.', '.', 1)}.weight")
                for name in names:
                    if name in known:
                        self._original[name] = known[name].detach().clone()

    def _restore(self) -> None:
        known = self._parameters()
        for name, value in self._original.items():
            known[name].copy_(value)
        self._original = {}
