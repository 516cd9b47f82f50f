"""An in-toto statement of an export: digests of its files, and what they were made from and how.

Statement v1 of the in-toto attestation framework with SLSA's provenance v1 as its predicate. It is
not signed; `cosign attest-blob` and the like take it as it is. Digests of ours are the first 128
bits of a SHA-256 over canonical JSON, so they go under a name of their own.
"""

import json
from pathlib import Path
from typing import Any

from catalog.export.facts import Facts
from catalog.export.place import STATEMENT, sha256_of
from factory.code_version import code_version

BUILD_TYPE = "urn:medimage-factory:export:v1"
BUILDER = "urn:medimage-factory"


def write_statement(
    folder: Path, facts: Facts, *, form: str, marks: list[str], export_id: str
) -> None:
    """Write the statement about every other file below `folder`."""
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
