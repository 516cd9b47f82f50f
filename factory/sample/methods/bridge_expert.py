"""The expert that a bridge asks: opened from its folder and held to the digest of its recipe."""

from pathlib import Path

from factory.errors import ModelError
from factory.models.expert_file import load_expert
from factory.models.experts import Expert, state_digest


def open_expert(folder: str, expert_id: str | None = None) -> tuple[Expert, str]:
    """Return the expert in `folder`, frozen, and the digest of its weights.

    Raises:
        ModelError: no whole expert there, or another one than `expert_id`.
    """
    expert, _ = load_expert(Path(folder).expanduser())
    found = state_digest(expert)
    if expert_id is not None and found != expert_id:
        raise ModelError(
            f"the expert in {folder} is {found}, the recipe was made with {expert_id}",
            remedy="Put that expert back, or start a new run",
        )
    return expert, found
