"""An expert on disk: a folder with its weights and what it says of itself."""

from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from factory.atomic import new_folder
from factory.config import Frozen
from factory.errors import ConfigError, ModelError
from factory.models.config import ExpertSpec
from factory.models.experts import Expert, build_expert

WEIGHTS, NOTES = "expert.safetensors", "expert.json"


class ExpertNotes(Frozen):
    """Backbone, classes, input, and how well it does on images that it was not trained on."""

    spec: ExpertSpec
    mean: tuple[float, ...]
    """Of the network's input, per channel in [0, 1]; and so `std`."""
    std: tuple[float, ...]
    val_accuracy: float = Field(ge=0, le=1)
    split_digest: str


def save_expert(
    folder: Path, expert: Expert, *, val_accuracy: float, split_digest: str
) -> ExpertNotes:
    """Write `folder` atomically and return the notes in it."""
    notes = ExpertNotes(
        spec=expert.spec,
        mean=tuple(expert.mean.flatten().tolist()),
        std=tuple(expert.std.flatten().tolist()),
        val_accuracy=val_accuracy,
        split_digest=split_digest,
    )
    state = {name: value.cpu().contiguous() for name, value in expert.network.state_dict().items()}
    with new_folder(folder) as work:
        save_file(state, work / WEIGHTS)
        (work / NOTES).write_text(notes.model_dump_json(indent=1) + "\n")
    return notes


def load_expert(folder: Path) -> tuple[Expert, ExpertNotes]:
    """Return the expert in `folder`, frozen, on the CPU.

    Raises:
        ModelError: files are missing, truncated, or do not belong together.
    """
    try:
        notes = ExpertNotes.model_validate_json((Path(folder) / NOTES).read_text())
        state = load_file(Path(folder) / WEIGHTS)
        expert = build_expert(notes.spec, seed=0)
        expert.network.load_state_dict(state)
    except (OSError, ValidationError, SafetensorError, ConfigError, RuntimeError) as error:
        raise ModelError(
            f"{folder} holds no whole expert ({str(error).splitlines()[0]})",
            remedy="Copy the folder again, or train the expert again",
        ) from error
    for name, values in (("mean", notes.mean), ("std", notes.std)):
        getattr(expert, name).copy_(torch.tensor(values)[:, None, None])
    return expert.freeze(), notes
