"""An image on a GPU is the same whenever it is drawn, and near what the CPU draws."""

import numpy as np
import pytest
import torch

from factory.models.generator import Generator, find_generator
from factory.real.pixels import psnr_db
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.plan import Batch
from factory.sample.prepare import make_plan
from factory.sample.schedulers import SCHEDULERS

pytestmark = pytest.mark.gpu


@pytest.fixture
def wbc() -> Generator:
    return find_generator("wbc-base")


def batch_of(wbc: Generator, **changes: object) -> Batch:
    known = {"num_images": 64, "batch_size": 64, "seed": 1, "num_inference_steps": 8} | changes
    return make_plan(GenerateConfig.model_validate(known), wbc).batch(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_sixty_four_images_are_redrawn_to_the_bit(wbc: Generator, dtype: str) -> None:
    first, again = (Engine(wbc, dtype=dtype).draw(batch_of(wbc)).images for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("scheduler", [n for n, s in SCHEDULERS.items() if not s.flow])
def test_a_solver_draws_what_it_draws_on_the_cpu(wbc: Generator, scheduler: str) -> None:
    batch = batch_of(wbc, scheduler=scheduler, num_images=4, batch_size=4)
    there, here = (Engine(wbc, device=device).draw(batch).images for device in ("cuda", "cpu"))
    assert min(psnr_db(a, b) for a, b in zip(there, here, strict=True)) > 30


def test_no_step_waits_for_the_device(wbc: Generator) -> None:
    """CUDA itself tells: an operation that waits raises."""
    engine, batch = Engine(wbc), batch_of(wbc)
    engine.draw(batch)
    method = engine.guided(batch.requests[0].recipe.class_name)
    bound = method.bound(method.conditions(batch.requests, (True,)), 1.0)
    noisy = torch.randn(64, method.unet.config.in_channels, 16, 16, device="cuda")
    steps = torch.arange(10, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            for step in steps:
                noisy = bound(noisy, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert noisy.isfinite().all()
