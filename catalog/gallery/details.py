"""Everything that is known of one image: its columns in groups, its gates."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markupsafe import Markup

from catalog.output import plain
from catalog.table import Catalog
from factory.gate import registry
from factory.gate.gate import Score
from factory.gate.registry import all_scores
from factory.terminal import escaped

GROUPS = {
    "Label": ("class_name", "class_id", "is_synthetic"),
    "How it was drawn": (
        *("method", "prompt", "negative_prompt", "guidance_scale", "num_inference_steps"),
        *("scheduler", "seed", "reference_ids", "guidance_terms", "bridge_depth", "cluster_id"),
        "attributes",
    ),
    "Where it came from": (
        *("model_id", "base_model_id", "adapter_id", "split_digest", "dataset_fingerprint"),
        "code_version",
    ),
    "Where it lies": (
        *("image_id", "run_id", "recipe_digest", "recipe_index", "batch_index", "batch_slot"),
        *("batch_size", "created_at"),
    ),
    "Pixels": (*("width_px", "height_px", "channels", "pixel_sha256", "pixel_size_um", "crop"),),
}
"""Columns of the image page; the others have a place of their own there."""

APART = (
    *("image", "mask", "class_names", "soft_label", "recipe", "engine", "gate_status"),
    *("gate_reasons", *(score.column for score in all_scores())),
)

SCORES = tuple((gate.key, score) for gate in registry.GATES for score in gate.scores)
"""Section of a run's configuration that holds a score's bounds, and the score."""

DEEPEST = 8
"""Of objects within objects; what lies deeper is shown as it is."""
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.S)
"""What a hub reads at the head of a card: its licence and the like stand beside it here."""
_NEAREST = re.compile(r"copy: .* to (.+)", re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLine:
    """What one gate says of an image."""

    gate: str
    score: float | None
    low: float | None
    high: float | None
    reason: str


def groups_of(row: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return title -> (column, value as text), nulls left out."""
    return {
        title: [(name, shown(row[name])) for name in names if row[name] not in (None, "", [])]
        for title, names in GROUPS.items()
    }


def gates_of(row: Mapping[str, Any], config: Mapping[str, Any]) -> list[GateLine]:
    """Return what every gate says; gates that give no score and no reason are left out."""
    reasons: dict[str, str] = {}
    for reason in row["gate_reasons"]:
        gate, _, why = reason.partition(":")
        reasons[gate] = why.strip()
    lines = []
    for key, score in SCORES:
        if row[score.column] is not None or score.gate in reasons:
            bounds = (_within(config, (key, end)) if end else None for end in _ends(score))
            reason = reasons.pop(score.gate, "")
            lines.append(_line(score.gate, row[score.column], *bounds, reason=reason))
    return [*lines, *(_line(gate, None, None, None, reason=why) for gate, why in reasons.items())]


def _line(
    gate: str, score: float | None, low: float | None, high: float | None, *, reason: str
) -> GateLine:
    return GateLine(gate=gate, score=score, low=low, high=high, reason=reason)


def _ends(score: Score) -> tuple[str | None, str | None]:
    return score.low, score.high


def nearest_real(row: Mapping[str, Any]) -> str | None:
    """Return the id of the training image that the copy gate found too near, if it says one."""
    found = [match[1] for reason in row["gate_reasons"] if (match := _NEAREST.fullmatch(reason))]
    return found[0] if found else None


def config_of(run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a run's configuration; empty where it is none that can be read."""
    try:
        config = yaml.safe_load(run["config"]) if run else {}
    except (yaml.YAMLError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def bounds_of(configs: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    """Return the bounds that any run's gate set for a score, each once."""
    paths = [(key, end) for key, s in SCORES if s.column == column for end in _ends(s) if end]
    found = {_within(config, path) for config in configs for path in paths}
    return sorted(bound for bound in found if bound is not None)


def shown(value: object) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    value = plain(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def facts(text: str | None) -> list[tuple[str, str]]:
    """Return what a JSON object holds, as (dotted key, value); other text as it is.

    What says nothing, null or empty, is left out.
    """
    try:
        told = json.loads(text or "{}")
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return [("text", text or "")]
    return list(_flat(told))


def card_html(text: str | None) -> Markup:
    """Return the card of a generator, which anybody may have written, as HTML without a link.

    Markup in it stays text, and so do links and pictures: they would lead out of the catalog.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink", "html_block", "html_inline", "reference"])
    return Markup(reader.render(escaped(_FRONT.sub("", text or ""))))  # noqa: S704 -- the reader escapes


def _flat(told: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for name, value in told.items():
        if isinstance(value, dict) and value and depth < DEEPEST:
            yield from _flat(value, f"{before}{name}.", depth + 1)
        elif value not in (None, "", [], {}):
            yield f"{before}{name}", shown(value)


def latest_runs(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Return run_id -> its latest event."""
    return {row["run_id"]: row for row in catalog.runs_latest().to_pylist()}


def _within(config: Mapping[str, Any], path: tuple[str, str] | None) -> float | None:
    part = config.get(path[0]) if path else None
    value = part.get(path[1]) if path and isinstance(part, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
