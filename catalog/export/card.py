"""The dataset card: what the images are, how many, from where, what is known and what is not.

Texts of others (prompts, class names, licences) are made inert: the card is shown on web pages.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from catalog.boundary import json_counts, json_object
from catalog.export.facts import LIMITS, NOT_REAL, TEST_ON_REAL, Facts, licences_of
from catalog.export.formats import FORMATS, MARKS
from catalog.export.layout import HEAD, MANIFEST, inert

CARD = "README.md"
SHEET = "sheet.png"
_MOST_ROWS = 40
"""Longer tables are cut; the statement has every recipe."""


def card(facts: Facts, *, form: str, marks: Sequence[str], num_masks: int) -> str:
    """Return the README.md of an export."""
    sections = [
        f"# Synthetic images: {inert(facts.name)}",
        f"**{NOT_REAL}**",
        f"![Some images of every class, the first by id]({SHEET})",
        _what(facts, form, num_masks),
        _table("Classes", ("class", "class_id", "images"), _classes(facts)),
        _generators(facts),
        _table(
            "Recipes", ("recipe", "method", "class", "guidance", "steps", "images"), _drawn(facts)
        ),
        _gates(facts),
        _evaluations(facts),
        _splits(facts),
        _marks(marks),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in (*LIMITS, TEST_ON_REAL)),
        _licence(facts),
        _files(),
    ]
    return f"---\n{_front(facts, form, num_masks, marks)}---\n\n" + "\n\n".join(sections) + "\n"


def _front(facts: Facts, form: str, num_masks: int, marks: Sequence[str]) -> str:
    licences = [licence.lower() for licence in licences_of(facts)]
    spdx = len(licences) == 1 and re.fullmatch(
        r"(cc0|cc-by|mit|apache|bsd)[a-z0-9.-]*", licences[0]
    )
    told: dict[str, Any] = {"pretty_name": f"Synthetic images: {facts.name}"}
    told["license"] = licences[0] if spdx else "other"
    tasks = ["image-segmentation"] if num_masks else []
    told["task_categories"] = ["image-classification", *tasks]
    told["tags"] = ["synthetic", "medical", *(f"mark-{mark}" for mark in marks)]
    told["size_categories"] = [_size_category(facts.num_images)]
    paths: dict[str, str | list[str]] = {
        "huggingface": "data/*.parquet",
        "imagefolder": ["train/*/*", "metadata.jsonl"] if num_masks else "train/**",
        "webdataset": "*.tar",
    }
    if form in paths:
        files = [{"split": "train", "path": paths[form]}]
        told["configs"] = [{"config_name": "default", "data_files": files}]
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=False, width=10_000)


def _size_category(count: int) -> str:
    steps = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M")]
    lower = "n"
    for limit, name in steps:
        if count < limit:
            return f"n<{name}" if lower == "n" else f"{lower}<n<{name}"
        lower = name
    return "n>10M"


def _what(facts: Facts, form: str, num_masks: int) -> str:
    sizes = ", ".join(f"{size} ({n})" for size, n in facts.counts["size"].most_common(5))
    lines = [
        f"{facts.num_images:,} images of {len(facts.counts['class_name'])} classes,"
        f" {num_masks:,} of them with a mask. Width x height x channels: {sizes}.",
        f"Chosen from version {facts.catalog_version} of a catalog by {inert(facts.where)}; version"
        f" {inert(facts.semver)}, drawn until {facts.published}.",
        f"One split, `train`. {FORMATS[form].what[0].upper()}{FORMATS[form].what[1:]}:",
        f"```python\n{FORMATS[form].example}\n```",
    ]
    return "\n\n".join(["## What it is", *lines])


def _classes(facts: Facts) -> Iterable[Sequence[object]]:
    used = facts.counts["class_name"]
    return [(name, number, used[name]) for number, name in enumerate(facts.class_names)]


def _generators(facts: Facts) -> str:
    known = {row["model_id"]: row for row in facts.models}
    rows: list[Sequence[object]] = []
    for model_id, count in facts.counts["model_id"].most_common():
        row: Mapping[str, Any] = known.get(model_id, {})
        names = ("name", "method", "base_model_id", "licence")
        rows.append((model_id, *(row.get(name) or "not told" for name in names), count))
    return _table("Generators", ("model_id", "name", "method", "base", "licence", "images"), rows)


def _drawn(facts: Facts) -> Iterable[Sequence[object]]:
    keys = ("method", "class_name", "guidance_scale", "num_inference_steps")
    return [(r.digest, *(r.recipe.get(k, "") for k in keys), r.num_images) for r in facts.recipes]


def _gates(facts: Facts) -> str:
    refused: dict[str, int] = {}
    for run in facts.runs:
        counts = json_counts(run["rejected_by_gate"], f"rejected_by_gate of run {run['run_id']!r}")
        for gate, count in counts.items():
            refused[gate] = refused.get(gate, 0) + count
    status = ", ".join(
        f"{n} {inert(name)}" for name, n in sorted(facts.counts["gate_status"].items())
    )
    spread = [(name, *(f"{v:.4g}" for v in values)) for name, values in facts.scores.items()]
    asked = sum(int(run["num_accepted"]) + int(run["num_rejected"]) for run in facts.runs)
    told = ", ".join(f"{inert(gate)} {n}" for gate, n in sorted(refused.items())) or "none"
    text = f"Here: {status}. Their runs published {asked:,} images; rejected by gate: {told}."
    return _table("Gates", ("score", "least", "median", "greatest"), spread, text)


def _evaluations(facts: Facts) -> str:
    lines = []
    for row in facts.evaluations[-_MOST_ROWS:]:
        verdicts = json_object(row["verdicts"], f"verdicts of study {row['evaluation_id']!r}")
        for arm, verdict in verdicts.items():
            study = f"{inert(row['name'])} ({inert(row['task'])}, {inert(row['metric'])})"
            lines.append(f"- {study}, {inert(arm)}: {inert(verdict)}")
    return "## Evaluations\n\n" + (
        "\n".join(lines) or "The catalog knows no study of these generators."
    )


def _splits(facts: Facts) -> str:
    splits = ", ".join(map(inert, facts.values("split_digest"))) or "not told"
    real = ", ".join(map(inert, facts.values("dataset_fingerprint"))) or "not told"
    return (
        "## Splits\n\nEvery image here is for training. The generators learnt from the train part"
        f" of split {splits} of real dataset {real}."
    )


def _marks(marks: Sequence[str]) -> str:
    lines = [f"- {name}: {MARKS[name]}." for name in marks]
    if "watermark" in marks:
        lines.append("- **Do not train on these images**: a model would learn the watermark.")
    return "## Marks\n\n" + ("\n".join(lines) or "None: images have the bytes that were drawn.")


def _licence(facts: Facts) -> str:
    told = "; ".join(map(inert, licences_of(facts)))
    return f"## Licence\n\nThat of the generators and of what they learnt from: {told}."


def _files() -> str:
    columns = ", ".join(f"`{name}`" for name in HEAD[:6])
    return (
        f"## Files\n\n`{MANIFEST}` leads from each image to its files: {columns}, and how it was"
        " drawn (a text that a spreadsheet would take for a formula has an apostrophe before it)."
        " `croissant.json`, `prov.json` and `statement.intoto.json` describe the set, its lineage"
        " and the digest of every file."
    )


def _table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[object]], text: str = ""
) -> str:
    cells = [[inert(value, longest=60) for value in row] for row in rows]
    more = f"\n\nand {len(cells) - _MOST_ROWS} more." if len(cells) > _MOST_ROWS else ""
    lines = [head, ["---"] * len(head), *cells[:_MOST_ROWS]]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else ""
    return "\n\n".join(filter(None, [f"## {title}", text, drawn])) + more
