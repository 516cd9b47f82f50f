"""Croissant 1.0 with the responsible-AI vocabulary: the export as a search engine describes it.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html and croissant-rai-spec.html. The
record set is the manifest, a row per image.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from catalog.export.facts import LIMITS, NOT_REAL, TEST_ON_REAL, Facts, licences_of, method_of
from catalog.export.layout import HEAD, MANIFEST
from catalog.export.statement import sha256_of

CROISSANT = "croissant.json"

_TYPES = {
    **dict.fromkeys(("class_id", "recipe_index", "seed", "height_px", "width_px"), "sc:Integer"),
    **dict.fromkeys(("num_inference_steps",), "sc:Integer"),
    "guidance_scale": "sc:Float",
    "is_synthetic": "sc:Boolean",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification prescribes."""

_MEDIA = {
    ".png": "image/png",
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".dcm": "application/dicom",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}


def write_croissant(folder: Path, facts: Facts, marks: Iterable[str]) -> None:
    """Write `croissant.json` about what lies below `folder`."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"synthetic {facts.name}").strip("-")
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": name,
        "description": f"{facts.num_images} synthetic medical images. {NOT_REAL}",
        "version": facts.semver,
        "datePublished": facts.published,
        "license": "; ".join(licences_of(facts)),
        "citeAs": f"@misc{{{name}, title={{{name}}}, year={{{facts.published[:4]}}},"
        f" note={{Synthetic images, SHA-256 {facts.images_digest}}}}}",
        "url": f"urn:medimage-factory:images:{facts.images_digest}",
        "creator": {"@type": "Organization", "name": "the users of medimage-factory"},
        "keywords": ["synthetic", "medical images", *facts.class_names],
        "isLiveDataset": False,
        **_responsible(facts, marks),
        "distribution": [_manifest(folder), *_file_sets(folder)],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "images", "name": "images",
                       "key": {"@id": "images/image_id"}, "field": [_field(n) for n in HEAD]}],
    }  # fmt: skip
    (folder / CROISSANT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _responsible(facts: Facts, marks: Iterable[str]) -> dict[str, Any]:
    return {
        "rai:dataCollection": method_of(facts),
        "rai:dataCollectionType": ["Software Collection"],
        "rai:dataLimitations": [*LIMITS, TEST_ON_REAL],
        "rai:dataBiases": "Those of the generators and of the real images they learnt from.",
        "rai:personalSensitiveInformation": [NOT_REAL],
        "rai:dataUseCases": ["Training, together with real images", TEST_ON_REAL],
        "rai:dataManipulationProtocol": f"Marks: {', '.join(marks) or 'none'}.",
    }


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    return {
        "@type": "cr:FileObject",
        "@id": MANIFEST,
        "name": MANIFEST,
        "contentUrl": MANIFEST,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "text/csv",
        "sha256": sha256_of(path),
    }


def _file_sets(folder: Path) -> list[dict[str, Any]]:
    """Return a file set for every kind of file in every folder at the top."""
    found = {
        (path.relative_to(folder).parts[0], path.suffix)
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder and path.suffix in _MEDIA
    }
    sets = [(f"{top}/**/*{suffix}", f"{top} {suffix[1:]}") for top, suffix in sorted(found)]
    if any(folder.glob("*.tar")):
        sets.append(("*.tar", "shards tar"))
    return [
        {
            "@type": "cr:FileSet",
            "@id": name.replace(" ", "-"),
            "name": name.replace(" ", "-"),
            "includes": pattern,
            "encodingFormat": _MEDIA[f".{name.split()[1]}"],
        }
        for pattern, name in sets
    ]


def _field(name: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"images/{name}",
        "name": name,
        "dataType": _TYPES.get(name, "sc:Text"),
        "source": {"fileObject": {"@id": MANIFEST}, "extract": {"column": name}},
    }
