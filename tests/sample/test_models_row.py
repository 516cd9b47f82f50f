"""What a run tells of its generator, for studies that ask who knew what."""

import json
from pathlib import Path

import pytest

from catalog import Catalog
from factory.models.generator import open_generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import execute
from tests.fakes.tiny import tiny_generator


@pytest.mark.parametrize(("told", "stored"), [(62, 62), (None, None), ("many", None), (True, None)])
def test_how_many_images_a_generator_learnt_from(
    told: object, stored: int | None, tmp_path: Path
) -> None:
    folder = tiny_generator(tmp_path / "tiny").folder
    path = folder / "factory.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images_trained": told}))
    config = GenerateConfig(model=str(folder), num_images=1, batch_size=1, seed=1, gates=None)
    config = config.model_copy(update={"num_inference_steps": 1})
    list(execute(prepare(config, str(tmp_path / "catalog")), stream=draw_here))
    rows = Catalog(tmp_path / "catalog").models().to_pylist()
    found = {row["model_id"]: row["images_trained"] for row in rows}
    assert found == {open_generator(folder).model_id: stored}
