"""A gate is one file and one line: all that a newcomer has to write."""

import subprocess
import sys
from pathlib import Path

import pytest

from catalog.schema import SAMPLES
from factory.errors import CatalogError
from factory.gate.registry import GATES, all_scores
from factory.gate.verdict import Verdict
from factory.models.generator import Generator
from factory.sample.rows import _verdict_columns

SCRIPT = """\
import sys
from factory.gate import registry
from tests.fakes.toy_gate import RednessGate

registry.GATES = (*registry.GATES, RednessGate)  # the one line

from catalog import Catalog, sql
from catalog.gallery.details import config_of, gates_of
from catalog.gallery.filters import filters_of
from factory.config import load_config, parse_config
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare, prepare_resume
from factory.sample.run import execute
from factory.sample.batches import draw_here

model, uri = sys.argv[1:]
plain = {"model": model, "num_images": 4, "num_inference_steps": 1, "batch_size": 2, "seed": 1}
plain["gates"] = {"min_contrast": None, "max_clipped": None, "min_sharpness": None}
asked = parse_config(GenerateConfig, plain | {"redness": {"max_red": 0.0}}, where="test")
run = prepare(asked, uri)
other = prepare(parse_config(GenerateConfig, plain, where="test"), uri)
scores = prepare(asked.model_copy(update={"redness": RednessGate(max_red=None)}), uri)
assert len({run.run_id, other.run_id, scores.run_id}) == 3
assert "redness" not in other.config.model_dump_json()  # older runs keep their names
print(other.run_id)
*_, last = execute(run, stream=draw_here)
assert last.rejected_by_gate == {"red": 4}, last
assert prepare_resume(run.run_id, uri).run_id == run.run_id
catalog = Catalog(uri)
query = "SELECT min(red_score) AS low, any_value(gate_reasons) AS why FROM samples"
(found,) = sql(catalog, query).to_pylist()
assert 0 < found["low"] <= 1
assert "red: redness" in found["why"][0]
row = catalog.samples().to_table().to_pylist()[0]
told = {line.gate: line for line in gates_of(row, config_of(catalog.run(run.run_id)))}
assert told["red"].high == 0.0
assert filters_of([("red_max", "0.4")]).bounds == {"red_max": 0.4}
"""


def test_a_new_gate_is_configured_named_stored_queried_and_filtered(
    tiny: Generator, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny.folder), str(tmp_path / "catalog")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    from factory.sample.config import GenerateConfig
    from factory.sample.prepare import prepare

    plain = {"num_images": 4, "num_inference_steps": 1, "batch_size": 2, "seed": 1}
    gates = {"min_contrast": None, "max_clipped": None, "min_sharpness": None}
    config = GenerateConfig.model_validate({"model": str(tiny.folder), **plain, "gates": gates})
    assert done.stdout.strip() == prepare(config, "unused").run_id  # as without the new one


def test_every_score_has_a_column_and_none_is_lost() -> None:
    assert {score.column for score in all_scores()} <= set(SAMPLES.names)
    assert len({kind.key for kind in GATES}) == len(GATES)
    with pytest.raises(CatalogError, match="no column 'odd_score'"):
        _verdict_columns([Verdict(gate="odd", score=0.5)])
    told = _verdict_columns([Verdict(gate="odd", score=None, reason="why")])
    assert told == {"gate_status": "rejected", "gate_reasons": ["odd: why"]}
