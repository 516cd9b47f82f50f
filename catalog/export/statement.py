"""Where an export comes from: an in-toto statement of its files, PROV; whose a folder is."""

import hashlib
import json
from pathlib import Path
from typing import Any

from catalog.export.facts import Facts
from factory.code_version import code_version
from factory.errors import OutputError

STATEMENT = "statement.intoto.json"


def check_place(folder: Path, export_id: str) -> None:
    """Refuse a folder in which something would be lost.

    Raises:
        OutputError: a file or a link, or a folder that holds anything but this same export.
    """
    if folder.is_symlink():
        raise OutputError(
            f"{str(folder)!r} is a symbolic link", remedy="Name the folder that it leads to"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is a file", remedy="Give a folder with --out")
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    if not names:
        return
    statement = _statement(folder)
    if statement is None or _id_of(statement) != export_id:
        what = "another export" if statement else "files that are no export"
        raise OutputError(
            f"{str(folder)!r} holds {what}", remedy="Give a new folder with --out, or empty it"
        )
    known = {subject["name"] for subject in statement["subject"]} | {STATEMENT}
    files = {name for name, path in names.items() if path.is_symlink() or not path.is_dir()}
    links = {name for name, path in names.items() if path.is_symlink()}
    foreign = sorted(files - known) + sorted(links)
    if foreign:
        raise OutputError(
            f"{str(folder / foreign[0])!r} is not of this export",
            remedy="Move it elsewhere: the folder is replaced as a whole",
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _statement(folder: Path) -> dict[str, Any] | None:
    path = folder / STATEMENT
    if path.is_symlink() or not path.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        _id_of(told), [subject["name"] for subject in told["subject"]]
    except (ValueError, KeyError, TypeError):
        return None
    return told


def _id_of(statement: dict[str, Any]) -> str:
    return str(statement["predicate"]["buildDefinition"]["internalParameters"]["export_id"])


BUILD_TYPE = "urn:medimage-factory:export:v1"
BUILDER = "urn:medimage-factory"


def write_statement(
    folder: Path, facts: Facts, *, form: str, marks: list[str], export_id: str
) -> None:
    """Write the in-toto statement about every other file below `folder`.

    Statement v1 of the in-toto attestation framework with SLSA's provenance v1 as its predicate. It
    is not signed; `cosign attest-blob` and the like take it as it is. Digests of ours are the first
    128 bits of a SHA-256 over canonical JSON, so they go under a name of their own.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    subjects = [
        {"name": path.relative_to(folder).as_posix(), "digest": {"sha256": sha256_of(path)}}
        for path in files
    ]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _asked(facts, form, marks),
                "internalParameters": {"export_id": export_id, "images": facts.images_digest},
                "resolvedDependencies": _materials(facts),
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"factory": code_version()}}},
        },
    }
    (folder / STATEMENT).write_text(json.dumps(statement, indent=1) + "\n", encoding="utf-8")


def _asked(facts: Facts, form: str, marks: list[str]) -> dict[str, Any]:
    recipes = [
        {"digest": r.digest, "num_images": r.num_images, "recipe": dict(r.recipe)}
        for r in facts.recipes
    ]
    return {
        "release": facts.name,
        "version": facts.semver,
        "where": facts.where,
        "catalog_version": facts.catalog_version,
        "format": form,
        "marks": marks,
        "recipes": recipes,
    }


def _materials(facts: Facts) -> list[dict[str, Any]]:
    kinds = {
        "dataset": facts.values("dataset_fingerprint"),
        "split": facts.values("split_digest"),
        "model": facts.values("model_id", "base_model_id", "adapter_id"),
    }
    listed = [
        {"name": f"{kind}:{value}", "digest": {"medimageFactory": value}}
        for kind, values in kinds.items()
        for value in values
    ]
    code = [{"name": f"code:{version}"} for version in facts.values("code_version")]
    return listed + [{**entry, "uri": f"{BUILDER}:{entry['name']}"} for entry in code]


PROV = "prov.json"
_SPACE = "urn:medimage-factory:"


def write_prov(folder: Path, facts: Facts, *, export_id: str) -> None:
    """Write `prov.json`: how the images came to be, as entities, activities and agents.

    W3C member submission PROV-JSON (2013). Ids are the catalog's own, so that the document can be
    joined with others about the same generators and real sets. It names no person and no machine.
    """
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
