"""What draws for a search outlives a run: a generator is loaded once, and draws the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest

from catalog import Catalog, sql
from catalog.place import Place
from factory.errors import ModelError
from factory.models.generator import Generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.pool import Pool
from factory.sample.prepare import prepare
from factory.sample.run import execute
from factory.search.drawer import Drawer

OPEN = {"min_contrast": None, "max_clipped": None, "min_sharpness": None}


def config(tiny: Generator, **changes: object) -> GenerateConfig:
    known = {"model": str(tiny.folder), "num_images": 10, "batch_size": 4, "seed": 3, "gates": OPEN}
    return GenerateConfig.model_validate({**known, "num_inference_steps": 2, **changes})


def ways(tiny: Generator) -> list[GenerateConfig]:
    """Two ways to draw with one generator, as a search tries them."""
    return [config(tiny, guidance_scale=g, scheduler=s) for g, s in ((1.0, "ddim"), (2.0, "unipc"))]


def pixels(place: Path) -> list[dict[str, object]]:
    found = sql(Catalog(Place(str(place))), "SELECT image_id, image FROM samples ORDER BY image_id")
    rows: list[dict[str, object]] = found.to_pylist()
    return rows


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every engine that this process loads."""
    found: list[str] = []
    begin = Engine.__init__

    def counted(engine: Engine, generator: Generator, **how: object) -> None:
        found.append(generator.name)
        begin(engine, generator, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "__init__", counted)
    return found


def test_a_drawer_loads_a_generator_once_and_draws_the_same_bits(
    tiny: Generator, tmp_path: Path, loads: list[str]
) -> None:
    drawer = Drawer(Place(str(tmp_path / "kept")))
    for way in ways(tiny):
        assert drawer.draw(way)[1] == 10
    assert len(loads) == drawer.kept.loads == 1
    for way in ways(tiny):
        list(execute(prepare(way, Place(str(tmp_path / "anew"))), stream=draw_here))
    assert len(loads) == 3
    assert pixels(tmp_path / "kept") == pixels(tmp_path / "anew")
    drawer.draw(config(tiny, seed=4, dtype="bfloat16"))
    assert drawer.kept.loads == 2  # other weights


@pytest.mark.ray
def test_samplers_load_once_for_all_runs_and_draw_what_this_process_draws(
    local_ray: None, tiny: Generator, tmp_path: Path
) -> None:
    import ray

    drawer = Drawer(Place(str(tmp_path / "there")), actors=1)
    assert drawer.pool is not None
    drawer.begin()
    for way in ways(tiny):
        assert drawer.draw(way)[1] == 10
        assert drawer.draw(way)[1] == 0  # all of it is there
    (sampler,) = drawer.pool.samplers
    assert ray.get(sampler.loads.remote()) == 1
    here = Drawer(Place(str(tmp_path / "here")))
    for way in ways(tiny):
        here.draw(way)
    assert pixels(tmp_path / "there") == pixels(tmp_path / "here")


@pytest.mark.ray
def test_whoever_is_there_draws_while_others_wait_for_room(
    local_ray: None, tiny: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sampler wants a GPU that nobody has: it is not waited for."""
    pool = Pool(2)
    pool.begin()
    pool._sampler = pool._sampler.options(num_gpus=1)
    drawer = Drawer(Place(str(tmp_path / "catalog")))
    drawer._stream = pool.stream
    assert drawer.draw(config(tiny, num_images=20))[1] == 20
    assert len(pool.samplers) == 2
    assert len(pool._coming) == 1
    assert len({row["image_id"] for row in pixels(tmp_path / "catalog")}) == 20


@pytest.mark.ray
def test_what_a_sampler_raises_is_raised_as_it_was_there(
    local_ray: None, tiny: Generator, tmp_path: Path
) -> None:
    run = prepare(config(tiny), Place(str(tmp_path / "catalog")))
    moved = replace(run, config=config(tiny, model=str(tmp_path / "gone")))
    with pytest.raises(ModelError, match="gone"):
        list(execute(moved, stream=Pool(1).stream))
