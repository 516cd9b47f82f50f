"""Attention layouts: one function in two orders, and the wrong order is not read."""

from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file, save_file

from factory.errors import ModelError
from factory.models.attention_layout import (
    HEADS_THEN_QKV,
    LAYOUT_NOTE,
    QKV_THEN_HEADS,
    SEPARATE,
    add_notes,
    convert_qkv,
    convert_state,
    fused_attention,
    layout_of,
    read_notes,
    require_layout,
    split_qkv,
)

HEADS, WIDTH, LENGTH = 4, 8, 25
CHANNELS = HEADS * WIDTH


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attended(weights: torch.Tensor, layout: str) -> torch.Tensor:
    projected = torch.einsum("oc,bcl->bol", weights, draws(2, CHANNELS, LENGTH, seed=1))
    return fused_attention(projected, HEADS, layout=layout)


@pytest.mark.parametrize("of", [QKV_THEN_HEADS, HEADS_THEN_QKV])
def test_converted_weights_are_the_same_function_and_unconverted_ones_are_not(of: str):
    to = HEADS_THEN_QKV if of == QKV_THEN_HEADS else QKV_THEN_HEADS
    weights = draws(3 * CHANNELS, CHANNELS) / CHANNELS**0.5
    converted = convert_qkv(weights, HEADS, of=of, to=to)
    assert (attended(converted, to) - attended(weights, of)).abs().max() < 1e-5
    assert (attended(weights, to) - attended(weights, of)).abs().max() > 0.5
    assert torch.equal(convert_qkv(converted, HEADS, of=to, to=of), weights)


def test_the_two_orders_are_what_they_are_called():
    rows = torch.arange(3 * 2 * 1)  # two heads of width 1: q0 q1 k0 k1 v0 v1
    found = convert_qkv(rows, 2, of=QKV_THEN_HEADS, to=HEADS_THEN_QKV)
    assert found.tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("of", [QKV_THEN_HEADS, HEADS_THEN_QKV])
def test_fused_weights_split_into_the_three_matrices_of_diffusers(of: str):
    weights, images = draws(3 * CHANNELS, CHANNELS) / CHANNELS**0.5, draws(2, CHANNELS, LENGTH)
    layer = Attention(query_dim=CHANNELS, heads=HEADS, dim_head=WIDTH, bias=False)
    parts = dict(zip(("to_q", "to_k", "to_v"), split_qkv(weights, HEADS, of=of), strict=True))
    for name, part in parts.items():
        getattr(layer, name).weight.data = part
    layer.to_out[0].weight.data, layer.to_out[0].bias.data = torch.eye(CHANNELS), torch.zeros(1)
    projected = torch.einsum("oc,bcl->bol", weights, images)
    with torch.no_grad():
        difference = layer(images.mT).mT - fused_attention(projected, HEADS, layout=of)
    assert difference.abs().max() < 1e-5


def test_a_state_is_converted_where_it_is_fused():
    state = {
        "input_blocks.4.1.qkv.weight": draws(3 * CHANNELS, CHANNELS, 1),
        "input_blocks.4.1.qkv.bias": draws(3 * CHANNELS),
        "out.2.weight": draws(6, 6),
    }
    found = convert_state(state, head_channels=WIDTH, of=HEADS_THEN_QKV, to=QKV_THEN_HEADS)
    assert torch.equal(found["out.2.weight"], state["out.2.weight"])
    for name in ("input_blocks.4.1.qkv.weight", "input_blocks.4.1.qkv.bias"):
        wanted = convert_qkv(state[name], HEADS, of=HEADS_THEN_QKV, to=QKV_THEN_HEADS)
        assert torch.equal(found[name], wanted)


def test_the_layout_lies_in_the_weights_and_a_wrong_one_is_refused(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": draws(3)}, path, metadata={"format": "pt"})
    assert layout_of(path) == SEPARATE
    add_notes(path, {LAYOUT_NOTE: HEADS_THEN_QKV})
    assert read_notes(path) == {"format": "pt", LAYOUT_NOTE: HEADS_THEN_QKV}
    assert torch.equal(load_file(path)["a"], draws(3))
    require_layout(path, HEADS_THEN_QKV)
    with pytest.raises(ModelError, match="layout 'heads_then_qkv', 'separate' is needed"):
        require_layout(path, SEPARATE)


def test_broken_asks_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="32 rows"):
        convert_qkv(draws(32), 3, of=QKV_THEN_HEADS, to=HEADS_THEN_QKV)
    with pytest.raises(ModelError, match="'separate' is not fused"):
        fused_attention(draws(1, 6, 2), 1, layout=SEPARATE)
    with pytest.raises(ModelError, match="no readable safetensors"):
        layout_of(tmp_path / "missing.safetensors")
