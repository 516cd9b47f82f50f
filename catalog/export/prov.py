"""PROV-JSON: how the exported images came to be, as entities, activities and agents.

W3C member submission PROV-JSON (2013). Ids are the catalog's own, so that the document can be
joined with others about the same generators and real sets. It names no person and no machine.
"""

import json
from pathlib import Path
from typing import Any

from catalog.export.facts import Facts
from factory.code_version import code_version

PROV = "prov.json"
_SPACE = "urn:medimage-factory:"


def write_prov(folder: Path, facts: Facts, *, export_id: str) -> None:
    """Write `prov.json`."""
    document = prov_of(facts, export_id=export_id)
    (folder / PROV).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def prov_of(facts: Facts, *, export_id: str) -> dict[str, Any]:
    """Return the document: real sets -> splits -> generators -> runs -> images -> this export."""
    kinds = ("entity", "activity", "agent", "used", "wasGeneratedBy", "wasDerivedFrom")
    out: dict[str, Any] = {"prefix": {"f": _SPACE, "prov": "http://www.w3.org/ns/prov#"}}
    out |= {kind: {} for kind in (*kinds, "wasAssociatedWith")}
    images, export = f"f:images/{facts.images_digest}", f"f:export/{export_id}"
    out["entity"][images] = {"f:num_images": facts.num_images, "f:synthetic": True}
    out["entity"][export] = {"prov:type": "prov:Collection", "f:release": facts.name}
    out["activity"]["f:exporting"] = {}
    out["agent"]["f:code"] = {"prov:type": "prov:SoftwareAgent", "f:version": code_version()}
    _relate(out, "used", "f:exporting", images)
    _relate(out, "wasGeneratedBy", export, "f:exporting")
    _relate(out, "wasDerivedFrom", export, images)
    _relate(out, "wasAssociatedWith", "f:exporting", "f:code")
    _add_runs(out, facts, images)
    _add_models(out, facts)
    return out


def _add_runs(out: dict[str, Any], facts: Facts, images: str) -> None:
    told = {row["run_id"]: row for row in facts.runs}
    for run_id in facts.values("run_id"):
        row, activity = told.get(run_id), f"f:run/{run_id}"
        times = {} if row is None else {"prov:startTime": row["started_at"].isoformat()}
        out["activity"][activity] = times
        _relate(out, "wasGeneratedBy", images, activity)
        _relate(out, "wasAssociatedWith", activity, "f:code")
        for model_id in facts.values("model_id", "adapter_id"):
            _relate(out, "used", activity, f"f:model/{model_id}")


def _add_models(out: dict[str, Any], facts: Facts) -> None:
    known = {row["model_id"]: row for row in facts.models}
    for model_id in facts.values("model_id", "base_model_id", "adapter_id"):
        out["entity"][f"f:model/{model_id}"] = {}
    for digest in facts.values("split_digest"):
        out["entity"][f"f:split/{digest}"] = {}
    for fingerprint in facts.values("dataset_fingerprint"):
        out["entity"][f"f:dataset/{fingerprint}"] = {"f:synthetic": False}
    for model_id, row in known.items():
        sources = {
            "model": row["base_model_id"],
            "split": row["split_digest"],
            "dataset": row["dataset_fingerprint"],
        }
        for kind, value in sources.items():
            if value is not None:
                out["entity"].setdefault(f"f:{kind}/{value}", {})
                _relate(out, "wasDerivedFrom", f"f:model/{model_id}", f"f:{kind}/{value}")


_ENDS = {
    "used": ("prov:activity", "prov:entity"),
    "wasGeneratedBy": ("prov:entity", "prov:activity"),
    "wasDerivedFrom": ("prov:generatedEntity", "prov:usedEntity"),
    "wasAssociatedWith": ("prov:activity", "prov:agent"),
}


def _relate(out: dict[str, Any], kind: str, first: str, second: str) -> None:
    ends = dict(zip(_ENDS[kind], (first, second), strict=True))
    out[kind][f"_:{kind}{len(out[kind])}"] = ends
