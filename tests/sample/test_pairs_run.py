"""Pairs through the line: published with their masks, redrawn bit for bit, judged, resumed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalog.query import sql
from catalog.table import Catalog
from factory.errors import ConfigError, DataError
from factory.gate.masks import MaskGates
from factory.models.config import SegmenterSpec
from factory.models.segmenter import save_segmenter
from factory.models.segmenter_networks import build_segmenter
from factory.sample.config import GenerateConfig
from factory.sample.prepare import Run, prepare, prepare_resume
from factory.sample.regenerate import regenerate_images
from factory.sample.run import execute
from tests.fakes.pair_generator import tiny_pairs
from tests.fakes.pairs import write_pairs

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

INPAINT = {
    "inpaint": {"jump_length": 2, "repeats": 2},
    "style": {"target": 2, "patch": 0.1, "skip_timesteps": 2},
    "match_colours": True,
    "target": "random",
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    folder = tmp_path_factory.mktemp("pairs")
    model = tiny_pairs(folder / "model")
    data, split = write_pairs(folder / "real")
    spec = SegmenterSpec(channels=(8, 8), norm_num_groups=4)
    network = build_segmenter(spec, 2, seed=0)
    facts = {**spec.model_dump(), "num_classes": 2, "size_px": 16}
    save_segmenter(folder / "segmenter", network, facts)
    return GenerateConfig.model_validate(
        {
            "model": str(model.folder),
            "data": data,
            "split": split,
            "num_images": 10,
            "images_per_reference": 2,
            "num_inference_steps": 4,
            "guidance_scale": 1,
            "scheduler": "ddpm",
            "batch_size": 4,
            "seed": 5,
            "options": INPAINT,
            "agreement": {"segmenter": str(folder / "segmenter"), "min_dice": None},
            "stream": {"commit_batches": 1, "actors": 1},
        }
    )


@pytest.fixture(scope="module")
def published(
    job: GenerateConfig, tmp_path_factory: pytest.TempPathFactory, local_ray: None
) -> tuple[str, Run]:
    uri = str(tmp_path_factory.mktemp("runs") / "catalog")
    run = prepare(job, uri)
    steps = execute(run)
    next(steps)  # stopped early, and resumed
    steps.close()
    *_, last = execute(prepare_resume(run.run_id, uri))
    assert last.complete
    assert last.drawn == 10
    return uri, run


def test_rows_hold_mask_references_options_and_scores(published: tuple[str, Run]) -> None:
    uri, run = published
    rows = Catalog(uri).samples().to_table().to_pylist()
    assert len(rows) == 10
    for row in rows:
        mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        assert mask.shape == (16, 16)
        assert set(np.unique(mask)) <= {0, 1}
        assert row["mask_area_score"] == pytest.approx((mask > 0).mean())
        assert 0 <= row["agreement_score"] <= 1
        assert len(set(row["reference_ids"])) == 2
        assert json.loads(json.loads(row["recipe"])["options"])["inpaint"]["repeats"] == 2
        told = json.loads(row["guidance_terms"])
        assert {name: term["weight"] for name, term in told.items()} == {"target": 2, "patch": 0.1}
    shown = {row["reference_ids"][0] for row in rows}
    assert len(shown) == 5
    assert run.references is not None
    assert shown <= set(run.references.ids)


def test_every_pair_is_redrawn_bit_for_bit(published: tuple[str, Run], tmp_path: Path) -> None:
    uri, _ = published
    ids = Catalog(uri).samples().to_table(columns=["image_id"])["image_id"].to_pylist()
    outcomes = list(regenerate_images(uri, image_ids=ids, out=tmp_path))
    assert [str(outcome) for outcome in outcomes] == ["identical"] * 10
    assert len(list(tmp_path.glob("*.mask.png"))) == 10


def test_a_redraw_finds_the_real_images_where_they_lie_now(
    published: tuple[str, Run], tmp_path: Path
) -> None:
    uri, _ = published
    ids = Catalog(uri).samples().to_table(columns=["image_id"])["image_id"].to_pylist()[:1]
    other, _ = write_pairs(tmp_path, size_px=24)  # other pixels under the same ids
    with pytest.raises(DataError, match="has other pixels than the recipe"):
        list(regenerate_images(uri, image_ids=ids, data=other))
    same, _ = write_pairs(tmp_path / "same")
    assert [o.tier for o in regenerate_images(uri, image_ids=ids, data=same)] == [0]


def test_scores_can_be_asked_for(published: tuple[str, Run]) -> None:
    uri, _ = published
    query = "SELECT count(*) AS n FROM samples WHERE agreement_score >= 0 AND mask_parts_score >= 0"
    assert sql(Catalog(uri), query).to_pylist() == [{"n": 10}]


def test_other_gates_are_another_run(job: GenerateConfig) -> None:
    changes = ({}, {"agreement": None}, {"mask_gates": MaskGates(max_parts=1)})
    runs = [prepare(job.model_copy(update=change), "unused").run_id for change in changes]
    assert len(set(runs)) == 3


def test_references_without_options_that_show_them_are_not_sent(job: GenerateConfig) -> None:
    plain = job.model_copy(update={"options": {}})
    assert prepare(plain, "unused").references is None
    with pytest.raises(ConfigError, match="inpainting begins with noise"):
        prepare(job.model_copy(update={"options": {**INPAINT, "skip_timesteps": 1}}), "unused")
