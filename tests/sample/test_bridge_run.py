"""A bridge through the whole line: planned, streamed, published, redrawn, shown."""

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from catalog.query import sql
from catalog.strip import progressions_of, source_image, write_strip
from catalog.table import Catalog
from factory.judge.bridges import Grader, direction_figures, progressions
from factory.judge.figures import probabilities
from factory.judge.sets import read_sets
from factory.models.config import ExpertSpec
from factory.models.experts import build_expert
from factory.models.generator import Generator
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.regenerate import regenerate_images
from factory.sample.run import execute
from tests.fakes.bridge import tiny_bridge
from tests.fakes.pairs import write_pairs

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

NAMES = ("lymphocyte", "monocyte")


def test_bridged_rows_are_whole_and_redrawn_bit_for_bit(tmp_path: Path):
    data, split = write_pairs(tmp_path / "real", classes=NAMES)
    generator = tiny_bridge(tmp_path / "models", NAMES)
    config = GenerateConfig.model_validate(
        {
            "model": str(generator.folder),
            "num_images": 12,
            "num_inference_steps": 5,
            "guidance_scale": 2.0,
            "scheduler": "ddim",
            "batch_size": 6,
            "seed": 1,
            "stream": {"actors": 1},
            "data": data,
            "split": split,
            "options": {"depths": 3, "min_psnr_db": 90.0},
            "gates": {"min_contrast": None, "max_clipped": None, "min_sharpness": None},
        }
    )
    uri = str(tmp_path / "catalog")
    *_, last = execute(prepare(config, uri))
    assert last.rejected_by_gate == {"inversion": 12}
    catalog = Catalog(uri)
    rows = sql(catalog, "SELECT * FROM samples ORDER BY recipe_digest, recipe_index").to_pylist()
    assert {row["method"] for row in rows} == {"bridge"}
    assert {row["class_name"] for row in rows} == set(NAMES)
    for start in range(0, 12, 3):
        group = rows[start : start + 3]
        assert len({row["recipe_digest"] for row in group}) == 1
        depths = [row["bridge_depth"] for row in group]
        assert depths == sorted(set(depths))
        shares = [row["soft_label"][row["class_id"]] for row in group]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        assert "comes back from its noise" in group[0]["gate_reasons"][0]
        assert json.loads(group[0]["guidance_terms"])["inversion_psnr_db"] < 90
    redrawn = list(regenerate_images(uri, image_ids=[row["image_id"] for row in rows[1::2]]))
    assert [outcome.tier for outcome in redrawn] == [0] * 6
    models = {row["model_id"]: row for row in catalog.models().to_pylist()}
    members = models[generator.model_id]["member_ids"]
    assert len(members) == 2
    assert set(members) < set(models)
    source_id = rows[0]["reference_ids"][0]
    write_strip(
        tmp_path / "s.png", progressions_of(catalog, source_id), source_image(data, source_id)
    )
    with Image.open(tmp_path / "s.png") as strip:
        assert strip.width > 4 * 128
    _judge(catalog, rows[0]["run_id"], generator)


def _judge(catalog: Catalog, run_id: str, generator: Generator) -> None:
    """Read the run back, and ask an expert."""
    spec = ExpertSpec(backbone="test_resnet", class_names=NAMES, size_px=16)
    expert = build_expert(spec, seed=0).freeze()
    grader = Grader(name="expert", class_names=NAMES, probabilities=partial(probabilities, expert))
    (drawn,) = read_sets(catalog, f"run_id = '{run_id}'", generator)  # all were refused
    assert drawn.images.shape == (12, 16, 16, 3)
    assert not any(fact["accepted"] for fact in drawn.facts)
    found = progressions(drawn, grader)
    assert {(each.source, each.target) for each in found} == {NAMES, NAMES[::-1]}
    assert [len(each.rows) for each in found] == [3] * 4
    assert found[0].evaluations > 0
    assert [each.num_sources for each in direction_figures(found)] == [2, 2]
    for each in found:
        assert each.depth.tolist() == sorted(each.depth)
        assert each.label[-1] == pytest.approx(1)
        assert {drawn.labels[row] for row in each.rows} == {each.target}
