"""What comes from outside never gets past our own errors: `pytest -m fuzz`, a minute each.

FUZZ_SECONDS changes the time. A failure is shrunk, and becomes a case of a quick test.
"""

import io
import json
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import strategies as st
from PIL import Image

from catalog import Catalog, SampleSink, sql, write_batch
from catalog.batch import as_samples
from catalog.schema import SAMPLES
from factory.config import load_config, preset_names
from factory.digest import canonical_json
from factory.errors import CatalogError, ConfigError, DataError
from factory.evaluate.config import StudyConfig
from factory.methods.text.config import FinetuneConfig
from factory.real.images import decode, decode_mask
from factory.sample.config import GenerateConfig
from factory.sample.recipe import recipe_from
from tests.fakes.rows import batch_rows, sample_row
from tests.laws.test_identity import recipe
from tests.security.fuzzing import fuzz, mutated

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]
PRESETS = Path("factory/presets")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.binary(max_size=6)
    | st.dates()
)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)
)


def test_configurations(tmp_path: Path) -> None:
    """Text, YAML of anything under known keys, and presets with damage."""
    kinds = (GenerateConfig, FinetuneConfig, StudyConfig)
    texts = [(PRESETS / name).read_bytes() for name in preset_names()]
    keys = st.sampled_from([k for kind in kinds for k in kind.model_fields])
    written = st.dictionaries(keys, plain, max_size=4).map(lambda d: yaml.dump(d).encode())
    odd = st.text(string.printable, max_size=80).map(str.encode)
    overrides = st.lists(st.builds("{}={}".format, keys, st.text(max_size=20)), max_size=2)

    def read(case: tuple[bytes, list[str]]) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(case[0])
        for kind in kinds:
            try:
                config = load_config(kind, file, case[1])
            except ConfigError:
                continue
            canonical_json(config.model_dump(mode="json"))

    assert fuzz(read, st.tuples(mutated(texts) | written | odd, overrides)) > 100


def pictures() -> list[bytes]:
    """One small picture of every format and mode that is read."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    made = []
    for form, modes in {
        "PNG": ("RGB", "L", "P", "1", "I;16", "LA", "RGBA"),
        "JPEG": ("RGB", "L", "CMYK"),
        "TIFF": ("RGB", "L", "F", "I;16", "CMYK"),
        "BMP": ("RGB", "P", "1"),
        "GIF": ("P", "L"),
        "WEBP": ("RGB", "RGBA"),
        "JPEG2000": ("RGB", "L"),
        "PPM": ("RGB", "L", "1"),
    }.items():
        for mode in modes:
            buffer = io.BytesIO()
            converted = colour.convert("L").convert(mode) if ";" in mode else colour.convert(mode)
            converted.save(buffer, form)
            made.append(buffer.getvalue())
    return made


def test_pictures_and_masks() -> None:
    def read(data: bytes) -> None:
        for reader in (decode, decode_mask):
            try:
                shown = np.asarray(reader(data, name="x.png"))
            except DataError:
                continue
            assert shown.dtype == np.uint8
            assert shown.size < 200_000_000

    assert fuzz(read, mutated(pictures())) > 1000


def test_provenance_rows() -> None:
    """Rows for a batch, and the recipes that rows of a foreign catalog hold."""
    names = st.sampled_from(sorted(SAMPLES.names))
    fields = st.sampled_from(sorted(recipe().to_dict()))
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
    stored = st.dictionaries(fields, json_values, max_size=3).map(
        lambda changes: json.dumps(recipe().to_dict() | changes)
    )
    texts = stored | st.text(max_size=30) | json_values.map(json.dumps)

    def read(case: tuple[dict[str, object], str]) -> None:
        try:
            found = recipe_from(case[1])
        except ConfigError:
            pass
        else:
            assert found.height_px * found.width_px <= 8192**2
            assert recipe_from(canonical_json(found.to_dict())).digest == found.digest
        rows = [sample_row(0) | case[0], sample_row(1)]
        try:
            table = pa.Table.from_pylist(rows)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return  # no table, so no rows
        try:
            made = as_samples(table, run_id="run-1", batch_index=0)
        except CatalogError:
            return
        assert made.schema == SAMPLES

    assert fuzz(read, st.tuples(st.dictionaries(names, plain, max_size=2), texts)) > 1000


WORDS = (
    *("SELECT", "*", "FROM", "samples", "runs", "models", "WHERE", "image_id", "recipe", "1", ","),
    *("(", ")", ";", "'", '"', "--", "/*", "*/", "=", "UNION ALL", "WITH", "AS", "x", "LIMIT"),
    *("read_text('{secret}')", "read_csv('{secret}')", "read_blob('{folder}/*')", "'{secret}'"),
    *("COPY samples TO '{folder}/out'", "ATTACH '{folder}/db'", "INSTALL httpfs", "LOAD httpfs"),
    *("PRAGMA", "SET", "enable_external_access = true", "EXPORT DATABASE '{folder}/d'", "glob("),
    *("CREATE TABLE t AS", "INSERT INTO", "DELETE FROM", "DROP TABLE", "CALL", "EXPLAIN ANALYZE"),
    *("getenv('HOME')", "parquet_scan('{folder}/**')", "pragma_version()", "duckdb_settings()"),
    *(
        "query('SELECT 1')",
        "query_table('samples')",
        "sniff_csv('{secret}')",
        "json_execute_serialized_sql",
    ),
)


def test_sql(tmp_path: Path) -> None:
    """Whatever is asked: no file is read, none is made, and errors are ours."""
    uri, outside = tmp_path / "catalog", tmp_path / "outside"
    files = [write_batch(uri, run_id="run-1", batch_index=0, rows=batch_rows(0))]
    SampleSink(uri, "run-1").commit(files)
    outside.mkdir()
    secret = outside / "secret.csv"
    secret.write_text("hush,hush\nhush,hush\n")
    catalog = Catalog(uri)
    before = sorted(tmp_path.rglob("*"))

    def ask(words: list[str]) -> None:
        text = " ".join(words).replace("{secret}", str(secret)).replace("{folder}", str(outside))
        try:
            found = sql(catalog, text, limit=50, timeout_seconds=5)
        except CatalogError:
            return
        assert "hush,hush" not in str(found.to_pylist())

    words = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), min_size=1, max_size=12)
    begun = words.map(lambda more: ["SELECT", "*", "FROM", *more])
    assert fuzz(ask, words | begun) > 100
    assert sorted(tmp_path.rglob("*")) == before
