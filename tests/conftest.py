"""Fixtures that several test packages share."""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two pools on two cores crawl
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # a thread that spins takes the core of its neighbour
# Ray starts workers at niceness 15: beside tests that compute, they would wait for these to end.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from factory.models.generator import Generator
from factory.real import smear

_drawn = lru_cache(maxsize=4096)(smear.draw_cell)

# Shells start what runs in their background with SIGINT ignored, nohup with SIGHUP, and both are
# inherited: tests that send one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("any-machine", deadline=None)  # a law says nothing of time
settings.load_profile("any-machine")


@pytest.fixture(autouse=True, scope="module")
def _cells_drawn_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep drawn cells of a process: most tests draw the same ones, 25 ms each."""
    if request.module.__name__.endswith("test_smear"):  # is about the drawing
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smear, "draw_cell", _drawn)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """A generator with random weights, made once."""
    from tests.fakes.tiny import tiny_generator

    return tiny_generator(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real sets and weights that developers have and users do not."""
    root = Path(os.environ.get("FACTORY_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip("the real sets in ../shared are not on this machine")
    return root


@pytest.fixture(scope="session")
def feature_weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of timm's tf_efficientnet_lite0 in `shared`, as the safetensors we read."""
    import torch
    from safetensors.torch import save_file

    (stored,) = (shared / "weights" / "efficientnet_lite0").glob("*.pth")
    path = tmp_path_factory.mktemp("weights") / "efficientnet_lite0.safetensors"
    state = torch.load(stored, weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray for all tests that stream in this process."""
    from factory.sample.session import ray_session

    with ray_session():
        yield
