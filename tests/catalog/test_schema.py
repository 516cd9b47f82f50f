import re
from pathlib import Path

import pyarrow as pa
import pytest

from catalog import schema
from catalog.schema import SAMPLES, STATISTICS, TABLES
from catalog.store import ensure_table


def test_columns_with_statistics_lead_and_are_never_null():
    assert tuple(SAMPLES.names[1 : 1 + len(STATISTICS)]) == STATISTICS
    assert not any(SAMPLES.field(name).nullable for name in STATISTICS)
    assert not any(pa.types.is_nested(SAMPLES.field(name).type) for name in STATISTICS)


def test_every_column_has_a_comment():
    lines = Path(schema.__file__).read_text().splitlines()
    fields = [line for line in lines if line.startswith("        pa.field(")]
    own = sum(len(table) for table in TABLES.values()) - len(schema.FROM_GATES)
    assert len(fields) == own
    assert [line for line in fields if not re.search(r"  # .{4}", line)] == []


def test_samples_hold_what_design_and_issue_name():
    named = """image_id run_id model_id class_name soft_label image mask seed guidance_scale
        num_inference_steps scheduler prompt gate_status gate_reasons pixel_sha256 engine
        recipe_digest recipe split_digest code_version created_at batch_slot batch_size"""
    assert set(named.split()) <= set(SAMPLES.names)


@pytest.mark.parametrize("name", TABLES)
def test_delta_keeps_every_arrow_type(tmp_path, name):
    stored = pa.schema(ensure_table(tmp_path, name).schema())
    assert stored.equals(TABLES[name])
