"""A search of a few trials: seconds, the code path of a real one."""

import json
from pathlib import Path

import yaml

from factory.real.sources import open_dataset
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator


def write_search(place: Path) -> str:
    """Write `sweep.yaml`, `split.json` and a generator into `place`; return the data to name."""
    data = "smear:60?seed=4&size=16"
    cells = open_dataset(data)
    split = split_of(cells, train=0.5, val=0.25, test=0.25)
    split.save(place / "split.json")
    tiny_generator(place / "tiny", class_names=cells.class_names)
    path = place / "tiny" / "factory.json"
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    path.write_text(json.dumps(json.loads(path.read_text()) | lineage))
    open_gates = {"min_contrast": None, "max_clipped": None, "min_sharpness": None}
    stored = {
        "name": "small",
        "generate": {
            "model": str(place / "tiny"),
            "num_images": 25,
            "num_inference_steps": 2,
            "batch_size": 25,
            "seed": 0,
            "gates": open_gates,
        },
        "arm": {"design": "add", "per_class": 2},
        "learner": {"backbone": "test_resnet", "size_px": 16, "steps": 2, "batch_size": 4},
        "space": {
            "arm.per_class": {"choices": [1, 2, 4]},
            "generate.guidance_scale": {"choices": [1, 2]},
        },
        "start": [{"arm.per_class": 4, "generate.guidance_scale": 2}],
        "trials": 4,
        "seeds": [0],
        "final_seeds": [0, 1],
    }
    (place / "sweep.yaml").write_text(yaml.safe_dump(stored))
    return data


def sweep_command(place: Path, data: str, where: Path) -> list[object]:
    """Return the arguments of `factory` that search with what lies in `place`, into `where`."""
    command: list[object] = ["sweep", "--config", place / "sweep.yaml", "--data", data]
    command += ["--split", place / "split.json", "--catalog", where / "catalog"]
    return [*command, "--output", where / "out"]
