"""A scheduler is one line of `SCHEDULERS`."""

from pathlib import Path

import pytest

from factory.errors import ConfigError
from factory.models.generator import Generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.levels import solver_levels
from factory.sample.prepare import prepare
from factory.sample.regenerate import regenerate_images
from factory.sample.run import execute
from factory.sample.schedulers import SCHEDULERS, Solver


def test_a_new_one_is_configured_drawn_with_and_redrawn(
    tiny: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "deis", Solver(kind="DEISMultistepScheduler"))
    asked = {"model": str(tiny.folder), "num_images": 2, "num_inference_steps": 3, "batch_size": 2}
    config = GenerateConfig.model_validate(asked | {"seed": 1, "scheduler": "deis"})
    uri = str(tmp_path / "catalog")
    *_, last = execute(prepare(config, uri), stream=draw_here)
    assert last.complete
    assert [o.tier for o in regenerate_images(uri, sample="100%")] == [0] * last.accepted
    assert solver_levels("deis", {}, 5).scheduler == "deis"


def test_one_that_cannot_be_walked_names_those_that_can() -> None:
    with pytest.raises(ConfigError, match="Choose ddpm, ddim, dpmpp_2m, unipc"):
        solver_levels("pndm", {}, 5)
