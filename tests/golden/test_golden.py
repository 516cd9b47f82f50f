"""Recipes, runs, catalogs and trainings of earlier code mean now what they meant then.

`data` holds what `write.py` wrote. Bits are those of an engine: where this machine is another one
than the recorded, images and weights are as near as the promise for other engines says.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from catalog import Catalog, sql, write_batch
from catalog.releases import verify_release
from factory.finetune.loop import Loop
from factory.models.generator import Generator, open_generator
from factory.sample.batches import draw_here
from factory.sample.prepare import prepare, prepare_resume
from factory.sample.recipe import Request, recipe_from
from factory.sample.regenerate import in_threads, regenerate_images
from factory.sample.run import execute
from tests.golden.write import DRAWN, PLANNED, STOPPED_AT, TEXT, TRAINED, config_of, pretrain, train

DATA = Path(__file__).parent / "data"
RUNS = json.loads((DATA / "runs.json").read_text())


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the golden folder, which is the working directory: its places are relative."""
    folder = shutil.copytree(DATA, tmp_path_factory.mktemp("golden") / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize("name", RUNS)
def test_a_run_and_its_images_keep_their_names(golden: Path, name: str) -> None:
    run, told = prepare(config_of((DRAWN | PLANNED)[name]), "catalog"), RUNS[name]
    assert [q.recipe.to_dict() for q in run.plan.quotas][: len(told["recipes"])] == [
        recipe for recipe, _ in told["recipes"]
    ]
    assert [q.count for q in run.plan.quotas][: len(told["recipes"])] == [
        count for _, count in told["recipes"]
    ]
    assert [quota.recipe.digest for quota in run.plan.quotas] == told["digests"]
    first = run.plan.batch(0).requests
    assert [request.image_id for request in first] == told["image_ids"]
    assert [request.seed for request in first] == told["seeds"]
    assert run.run_id == told["run_id"]


def test_there_are_as_many_runs_as_promised() -> None:
    assert len(RUNS) == len(DRAWN | PLANNED) == 20


def test_rows_name_the_recipes_that_they_hold(golden: Path) -> None:
    rows = Catalog("catalog").samples().to_table().to_pylist()
    assert len(rows) == 26
    for row in rows:
        recipe = recipe_from(row["recipe"])
        assert recipe.digest == row["recipe_digest"]
        assert Request(recipe=recipe, index=row["recipe_index"]).image_id == row["image_id"]


def test_a_file_of_rows_is_written_to_its_bytes_again(golden: Path, tmp_path: Path) -> None:
    (path,) = Path("catalog").glob(f"samples/run_id={RUNS['inpainted']['run_id']}/*0000-*.parquet")
    file = pq.ParquetFile(path)
    if pa.__version__ not in file.metadata.created_by:
        pytest.skip(f"written by {file.metadata.created_by}, here is pyarrow {pa.__version__}")
    run_id, rows = RUNS["inpainted"]["run_id"], file.read()
    index = rows["batch_index"][0].as_py()
    plain = rows.drop([name for name in ("run_id", "batch_index") if name in rows.column_names])
    written = write_batch(tmp_path, run_id=run_id, batch_index=index, rows=plain)
    again = next(tmp_path.rglob(Path(written.path).name))
    assert again.name == path.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("threads", [1, 2])
def test_every_image_is_redrawn(golden: Path, threads: int) -> None:
    with in_threads(threads):
        _redraws()


def _redraws() -> None:
    ids = sql(Catalog("catalog"), "SELECT image_id FROM samples")["image_id"].to_pylist()
    outcomes = list(regenerate_images("catalog", image_ids=ids))
    assert len(outcomes) == 26
    for outcome in outcomes:
        other_engine = " -> " in outcome.because  # the bits are promised on an equal one
        assert outcome.tier == 0 or (outcome.tier == 1 and other_engine), outcome


def test_the_tables_are_queried_and_a_release_verified(golden: Path) -> None:
    catalog = Catalog("catalog")
    for table in ("samples", "runs", "models", "evaluations", "scores", "tombstones"):
        sql(catalog, f"SELECT * FROM {table}")
    by_method = "SELECT method, count(*) AS n FROM samples GROUP BY ALL ORDER BY ALL"
    assert {row["method"]: row["n"] for row in sql(catalog, by_method).to_pylist()} == {
        "bridge": 4, "class_conditional": 4, "pairs": 8, "text": 10
    }  # fmt: skip
    assert verify_release("catalog", "golden").holds


def test_a_run_that_was_stopped_goes_on(golden: Path, tmp_path: Path) -> None:
    shutil.copytree("catalog", tmp_path / "catalog")
    uri = str(tmp_path / "catalog")
    stopped = prepare(config_of(TEXT | {"seed": 8, "num_images": 6}), uri)
    before = len(Catalog(uri).samples().to_table())
    *_, last = execute(prepare_resume(stopped.run_id, uri), stream=draw_here)
    assert last.complete
    assert (last.published, last.drawn) == (2, 4)
    assert len(Catalog(uri).samples().to_table()) == before + 4


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which loops go on."""
    found: list[int] = []
    restore = Loop.restore

    def noted(loop: Loop, path: Path) -> int:
        found.append(restore(loop, path))
        return found[-1]

    monkeypatch.setattr(Loop, "restore", noted)
    return found


ONE_STEP_FEWER = {"text": 1.8e-9, "class_conditional": 2.3e-7, "pairs": 1.2e-5, "base": 1.5e-4}
"""Root mean square by which all weights differ after seven steps instead of eight. Processors
differ by less: 4e-10, 3e-8, 0 and 2e-5 (a base trains in bfloat16 where the processor has it). The
largest difference of one weight says nothing: where a gradient is rounding alone, Adam moves it by
a whole learning rate, and rounding decides where to."""


@pytest.mark.parametrize("method", TRAINED)
def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    golden: Path, method: str, resumed: list[int]
) -> None:
    found = train(method, Path("trainings") / method)
    assert resumed == [STOPPED_AT - 1]  # the checkpoint of its last step was not yet on disk
    kept = open_generator(golden / "trainings" / f"{method}-trained")
    _check_alike(found, kept, method)


def test_a_base_that_was_killed_goes_on_to_the_same_weights(
    golden: Path, resumed: list[int]
) -> None:
    found = pretrain(Path("trainings/base"))
    assert resumed == [STOPPED_AT - 1]
    _check_alike(found, open_generator(golden / "trainings" / "base-trained"), "base")


def _check_alike(found: Generator, kept: Generator, method: str) -> None:
    own, theirs = weights(found.folder), weights(kept.folder)
    assert own.keys() == theirs.keys()
    squares = sum(float((own[n].double() - t.double()).square().sum()) for n, t in theirs.items())
    apart = (squares / sum(tensor.numel() for tensor in theirs.values())) ** 0.5
    assert apart < ONE_STEP_FEWER[method] / 3
    assert found.manifest["class_names"] == kept.manifest["class_names"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a generator by file and name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.relative_to(folder)} {n}": t for f in files for n, t in load_file(f).items()}
