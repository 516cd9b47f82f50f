"""A cluster that begins with nothing starts the GPUs that a run asks for, and lets them go."""

import subprocess
import sys
import time

import pytest

from catalog import Catalog, sql
from factory.models.generator import Generator
from tests.fault.growing import growing_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_asks_a_cluster_of_zero_gpus_for_some_and_lets_them_go(
    tiny: Generator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("g")  # sockets have short names
    keys = [f"model={tiny.folder}", "num_inference_steps=2", "batch_size=16", "seed=1"]
    keys += ["stream.gpus_per_actor=1", "stream.actors=[1,2]", "gates.min_sharpness=null"]
    with growing_cluster(folder, gpu_nodes=2) as cluster:
        words = [sys.executable, "-m", "factory.cli", "generate", "--num-images", "320"]
        words += ["--address", cluster.address, "--catalog", str(folder / "catalog")]
        words += [word for key in keys for word in ("--set", key)]
        watch = [sys.executable, "-m", "tests.fault.growing", cluster.address]
        log = folder / "gpus.log"
        with (
            log.open("w") as file,
            subprocess.Popen(
                watch, env=cluster.environ, stdout=file, stderr=subprocess.DEVNULL
            ) as watching,
        ):
            try:
                done = subprocess.run(
                    words, env=cluster.environ, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
                for _ in range(300):
                    time.sleep(1)
                    if log.read_text().endswith("0\n") and "1" in log.read_text():
                        break
            finally:
                watching.kill()
    seen = [int(line) for line in log.read_text().split()]
    assert seen[0] == 0
    assert max(seen) in (1, 2)
    assert seen[-1] == 0
    count = "SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM samples"
    assert sql(Catalog(folder / "catalog"), count).to_pylist() == [{"n": 320, "ids": 320}]
