"""What a card reaches: images/s and its share of the peak, told and not judged."""

import time
from collections.abc import Callable

import pytest
import torch

from factory.finetune.meter import count_flops
from factory.models.generator import find_generator
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan

pytestmark = pytest.mark.gpu
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "A10": 125e12}
"""Dense bfloat16 operations a second, from NVIDIA's data sheets (SXM where there are several)."""


def test_images_a_second_and_the_share_of_the_peak(
    card: str, record_property: Callable[[str, object], None]
) -> None:
    wbc = find_generator("wbc-base")
    config = GenerateConfig(num_images=1024, batch_size=256, seed=1)
    engine, plan = Engine(wbc, dtype="bfloat16"), make_plan(config, wbc)
    operations = count_flops(lambda: engine.draw(plan.batch(0)))
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for batch in plan.batches():
        engine.draw(batch)
    seconds = time.perf_counter() - begun
    peak = next((peak for name, peak in PEAKS.items() if name in card), None)
    share = "unknown" if peak is None else f"{4 * operations / seconds / peak:.1%}"
    line = f"{card}: {1024 / seconds:.1f} images/s of wbc-base, {share} of the data sheet's peak"
    print(line)
    record_property("speed", line)
    assert torch.cuda.max_memory_allocated() > 0
