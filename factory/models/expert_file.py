"""An expert on disk: a folder with its weights and what it says of itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from factory.atomic import new_folder
from factory.config import Frozen
from factory.errors import ConfigError, ModelError
from factory.models.config import ExpertSpec

if TYPE_CHECKING:  # the notes alone are read before torch is imported
    from factory.models.experts import Expert

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
    folder: Path, expert: "Expert", *, val_accuracy: float, split_digest: str
) -> ExpertNotes:
    """Write `folder` atomically and return the notes in it."""
    from safetensors.torch import save_file

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


def load_expert(folder: Path) -> tuple["Expert", ExpertNotes]:
    """Return the expert in `folder`, frozen, on the CPU.

    Raises:
        ModelError: files are missing, truncated, or do not belong together.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from factory.models.experts import build_expert

    notes = read_notes(folder)
    try:
        state = load_file(Path(folder) / WEIGHTS)
        expert = build_expert(notes.spec, seed=0)
        expert.network.load_state_dict(state)
    except (OSError, SafetensorError, ConfigError, RuntimeError) as error:
        raise _not_whole(folder, error) from error
    for name, values in (("mean", notes.mean), ("std", notes.std)):
        getattr(expert, name).copy_(torch.tensor(values)[:, None, None])
    return expert.freeze(), notes


def read_notes(folder: Path) -> ExpertNotes:
    """Return what the expert in `folder` says of itself.

    Raises:
        ModelError: there is none, or its weights are missing.
    """
    try:
        notes = ExpertNotes.model_validate_json((Path(folder) / NOTES).read_text())
        (Path(folder) / WEIGHTS).stat()
    except (OSError, ValidationError) as error:
        raise _not_whole(folder, error) from error
    return notes


def _not_whole(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{folder} holds no whole expert ({str(error).splitlines()[0]})",
        remedy="Copy the folder again, or train the expert again",
    )
