"""In which order a network's attention cuts its channels: stored with the weights, converted.

One matrix may compute queries, keys and values together. Its rows then lie as (3, heads, width)
('split qkv, then heads') or as (heads, 3, width) ('split heads, then qkv'): equal functions of
permuted weights, and nonsense when read in the other order. diffusers keeps three matrices.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from factory.errors import ModelError

SEPARATE, QKV_THEN_HEADS, HEADS_THEN_QKV = "separate", "qkv_then_heads", "heads_then_qkv"
LAYOUTS = (SEPARATE, QKV_THEN_HEADS, HEADS_THEN_QKV)
LAYOUT_NOTE, WINDOW_NOTE = "attention_layout", "attention_window"
"""Keys in the header of a safetensors file. A file without them is separate and global."""


def convert_qkv(weights: Tensor, heads: int, *, of: str, to: str) -> Tensor:
    """Return a fused matrix or bias (3 * heads * width, ...) with its rows in the order `to`.

    Raises:
        ModelError: an unknown layout, or rows that are not 3 * heads * width.
    """
    _check(of, to)
    if weights.shape[0] % (3 * heads):
        raise ModelError(
            f"{weights.shape[0]} rows are no queries, keys and values of {heads} heads",
            remedy="Give the number of heads that the network was trained with",
        )
    if of == to:
        return weights
    first, second = (3, heads) if of == QKV_THEN_HEADS else (heads, 3)
    parts = weights.reshape(first, second, -1, *weights.shape[1:])
    return parts.transpose(0, 1).reshape(weights.shape).contiguous()


def convert_state(
    state: Mapping[str, Tensor], *, head_channels: int, of: str, to: str
) -> dict[str, Tensor]:
    """Return a state dict with every fused `*.qkv.weight` and `*.qkv.bias` converted.

    Args:
        state: of a guided-diffusion network, whose fused layers are called so.
        head_channels: width of a head, the same everywhere.
        of, to: layouts.

    Raises:
        ModelError: see `convert_qkv`.
    """
    return {
        name: convert_qkv(value, max(1, value.shape[0] // (3 * head_channels)), of=of, to=to)
        if name.endswith((".qkv.weight", ".qkv.bias"))
        else value
        for name, value in state.items()
    }


def split_qkv(weights: Tensor, heads: int, *, of: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of a fused matrix as diffusers' `to_q`, `to_k` and `to_v`.

    Raises:
        ModelError: see `convert_qkv`.
    """
    query, key, value = convert_qkv(weights, heads, of=of, to=QKV_THEN_HEADS).chunk(3)
    return query, key, value


def fused_attention(qkv: Tensor, heads: int, *, layout: str) -> Tensor:
    """Return the attention (B, heads * width, L) of fused projections (B, 3 * heads * width, L).

    Raises:
        ModelError: a layout that is not fused.
    """
    _check(layout)
    batch, _, length = qkv.shape
    if layout == QKV_THEN_HEADS:
        query, key, value = qkv.reshape(batch, 3, heads, -1, length).unbind(1)
    else:
        query, key, value = qkv.reshape(batch, heads, 3, -1, length).unbind(2)
    attended = F.scaled_dot_product_attention(query.mT, key.mT, value.mT)
    return attended.mT.reshape(batch, -1, length)


def read_notes(path: Path) -> dict[str, str]:
    """Return the notes in the header of a safetensors file.

    Raises:
        ModelError: missing or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} is no readable safetensors file ({error})", remedy="Copy the model again"
        ) from error


def add_notes(path: Path, notes: Mapping[str, str]) -> None:
    """Write `notes` into the header of a safetensors file: they are part of its digest then."""
    told = read_notes(path) | dict(notes)
    save_file(load_file(path), path, metadata=told)


def layout_of(path: Path) -> str:
    """Return the attention layout that the weights at `path` were saved with.

    Raises:
        ModelError: see `read_notes`; a layout that this factory does not know.
    """
    layout = read_notes(path).get(LAYOUT_NOTE, SEPARATE)
    if layout not in LAYOUTS:
        raise ModelError(
            f"{path} has the unknown attention layout {layout!r}",
            remedy=f"Convert it to one of {', '.join(LAYOUTS)}",
        )
    return layout


def window_of(path: Path) -> int | None:
    """Return the side of the windows of self-attention in the weights at `path`; None: global.

    Raises:
        ModelError: see `read_notes`; a note that is no number.
    """
    note = read_notes(path).get(WINDOW_NOTE, "0")
    if not note.isdecimal():
        raise ModelError(
            f"{path} says of its attention window {note!r}", remedy="Copy the model again"
        )
    return int(note) or None


def require_layout(path: Path, wanted: str) -> None:
    """Refuse weights whose attention would be read in another order than they were trained in.

    Raises:
        ModelError: they have another layout.
    """
    if (found := layout_of(path)) != wanted:
        raise ModelError(
            f"{path} has attention layout {found!r}, {wanted!r} is needed",
            remedy="Convert it with factory.models.attention_layout first",
        )


def unet_file(folder: Path) -> Path:
    """Return the file of a generator folder whose header tells of its attention."""
    return min((folder / "unet").glob("*.safetensors"), default=folder / "unet" / "missing")


def _check(*layouts: str) -> None:
    for layout in layouts:
        if layout not in (QKV_THEN_HEADS, HEADS_THEN_QKV):
            raise ModelError(
                f"attention layout {layout!r} is not fused",
                remedy=f"Give {QKV_THEN_HEADS} or {HEADS_THEN_QKV}",
            )
