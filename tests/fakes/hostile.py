"""Catalogs of somebody who means harm: in names, texts, conditions, versions, paths and the log."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from catalog import SampleSink, record_model, record_run, write_batch
from catalog.releases import find_release
from catalog.releasing import create_release
from catalog.results import record_evaluation
from catalog.sink import append_once, typed_rows
from tests.fakes.gallery import evaluation_row, mask, score_row
from tests.fakes.rows import model_row, rows_table, run_row, sample_row

TITLE = "\x1b]0;pwn\x07"
"""Sets the title of a terminal."""
BOMB = "len(repeat('x', 2000000000)) > 0"
"""One expression: minutes and gigabytes, and nothing in between at which to stop."""
HUGE = 10**15
NAMES = (
    *("..", ".", "../../../PWN", "a/b", "x" * 300, f"esc{TITLE}", "new\nline", "c1\x9b31mred"),
    *("cr\rover", "rtl\u202egnp.exe", "' OR 1=1 --", "%2e%2e%2fPWN", "CON", "-rf", "~root"),
    *("$(reboot)", "[bold]x[/bold]", "[link=file:///etc/passwd]x[/link]", "<b>\x07", "nul\0byte"),
)


def acting(text: str) -> set[str]:
    """The characters of a text that act on a terminal."""
    return {
        c
        for c in text
        if (ord(c) < 32 and c not in "\n\t")
        or 127 <= ord(c) < 160
        or c in "\u2028\u2029\u200e\u200f"
        or "\u202a" <= c <= "\u202e"
        or "\u2066" <= c <= "\u2069"
        or "\ud800" <= c <= "\udfff"
    }


def hostile_catalog(uri: Path, outside: Path, rows: Sequence[dict[str, object]] = ()) -> Path:
    """Write a catalog with `NAMES`, and a path below `outside`, wherever a text may stand.

    `rows` are whole rows that can be redrawn; their ids are replaced, and nothing else.
    """
    names = (*NAMES, str(outside / "PWN"))
    record_run(uri, run_row("run-1", message=TITLE))
    rejected = json.dumps(dict.fromkeys(names, 1))
    config = json.dumps({"data": names[2], "model": names[-1], "num_images": TITLE})
    record_run(
        uri,
        run_row("run-1", 1, message="\n".join(names), config=config, environment=TITLE,
                code_version=TITLE, rejected_by_gate=rejected),
    )  # fmt: skip
    texts = ("prompt", "negative_prompt", "scheduler", "method", "model_id", "base_model_id",
             "adapter_id", "split_digest", "dataset_fingerprint", "guidance_terms", "code_version",
             "tier_verified", "recipe_digest")  # fmt: skip
    written = []
    for number, name in enumerate(names):
        row = dict(rows[number % len(rows)]) if rows else sample_row(number)
        if not rows:
            row |= dict.fromkeys(texts, name) | {
                "class_name": name, "class_id": number, "class_names": list(names),
                "soft_label": [float(n == name) for n in names], "reference_ids": [name],
                "recipe": json.dumps({name: name}), "engine": json.dumps({name: name}),
                "mask": mask(), "bridge_depth": 0.5,
            }  # fmt: skip
        row |= {"image_id": name, "image": {**row["image"], "path": f"{name}.png"}}
        if number % 5 == 4 and not rows:
            reasons = [f"{name}: {name}", f"copy: 0.1 to {name}"]
            row |= {"gate_status": "rejected", "gate_reasons": reasons}
        written.append(row)
    file = write_batch(uri, run_id="run-1", batch_index=0, rows=rows_table(written))
    SampleSink(uri, "run-1").commit([file])
    model = dict.fromkeys(("name", "card", "licence", "config", "method"), TITLE)
    model |= {"base_model_id": names[2], "member_ids": list(names)}
    record_model(uri, model_row("model-a", **model))
    study = evaluation_row(name=TITLE, task=TITLE, model_ids=list(names), metric=TITLE,
                           verdicts=json.dumps({name: name for name in names}))  # fmt: skip
    record_evaluation(uri, study, [score_row(TITLE)])
    return uri


def with_release(uri: Path, **changes: object) -> Path:
    """Add release 'evil@1.0.0' of all rows, and then 'evil@2.0.0', whose record is changed."""
    made = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}
    row = asdict(create_release(uri, "evil", **made)) | {"reason": None, "event": 0}
    row["catalog_version"], row["condition"] = row.pop("version"), row.pop("where")
    row["class_counts"] = json.dumps(row["class_counts"])
    path = changes.pop("path", None)
    row |= {"name": "evil@2.0.0", "semver": "2.0.0", "previous": "evil@1.0.0"} | changes
    key = {"name": row["name"], "manifest_digest": row["manifest_digest"]}
    files = [key | {"path": path or "x", "size_bytes": 1, "sha256": TITLE}]
    append_once(uri, "release_files", typed_rows(files, "release_files"), key=key, app_id="f",
                app_version=1)  # fmt: skip
    append_once(uri, "releases", typed_rows([row], "releases"),
                key={"name": "evil@2.0.0", "event": 0}, app_id="r", app_version=1)  # fmt: skip
    if "class_counts" not in changes:
        find_release(uri, "evil@2.0.0")
    return uri


def with_log(source: Path, uri: Path, **changes: str) -> Path:
    """Copy a catalog, and write into its log another `run_id` or `path` of the data file."""
    shutil.copytree(source, uri)
    entry = uri / "samples" / "_delta_log" / f"{1:020d}.json"
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            if "run_id" in changes:
                action["add"]["partitionValues"]["run_id"] = changes["run_id"]
            action["add"]["path"] = changes.get("path", action["add"]["path"])
    entry.write_text("\n".join(map(json.dumps, actions)) + "\n")
    return uri
