"""Evaluation: a metric pass against the bare network, arms side by side against one by one.

python -m tests.bench.bench_evaluate [--num-images 400] [--trainings 8] [--rounds 3]

The metric pass decodes stored images, brings them to size, extracts features and computes KID and
the Frechet distance to a reference; bare is the same network on the same batches, already made.
Weights are random: times do not depend on them. Run it with OMP_NUM_THREADS=1, as workers do.
"""

import time

import click
import numpy as np
import ray
import timm
import torch

from factory.evaluate.config import Classifier, StudyConfig
from factory.evaluate.designs import Real
from factory.evaluate.material import study_material
from factory.evaluate.placement import execute_on_ray
from factory.evaluate.study import plan_units
from factory.measure.cache import NOTHING_KEPT
from factory.measure.distances import frechet_distance, kid
from factory.measure.features import FeatureSpace, network_input
from factory.measure.real_features import real_part
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import make_folds
from tests.bench.timing import alternate, told

SIZE_PX, BATCH = 64, 8


def metric_rate(space: FeatureSpace, cells: RealDataset, reference: np.ndarray) -> float:
    """Return images/s of a whole metric pass over stored images."""
    begun = time.perf_counter()
    part = real_part(
        cells, cells.ids, size_px=SIZE_PX, space=space, num_turns=1, cache=NOTHING_KEPT
    )
    kid(part.turns[0], reference)
    frechet_distance(part.turns[0], reference)
    return len(cells.ids) / (time.perf_counter() - begun)


@torch.inference_mode()
def bare_rate(space: FeatureSpace, batches: list[torch.Tensor]) -> float:
    """Return images/s of the network alone, on batches that lie in memory."""
    begun = time.perf_counter()
    for batch in batches:
        space.network(batch)
    return sum(map(len, batches)) / (time.perf_counter() - begun)


def arms_rate(cpus: int, cells: RealDataset, trainings: int, steps: int) -> float:
    """Return trainings/s of a study on a Ray with so many cores, its workers started before."""
    config = StudyConfig(
        learner=Classifier(size_px=SIZE_PX, steps=steps, batch_size=16, validate_every=steps),
        arms={"real": Real(), "plain": Real(augment=False)},
        seeds=tuple(range(trainings // 2)),
    )
    splits = make_folds(
        dataset=cells.fingerprint,
        ids=cells.ids,
        labels=cells.labels,
        groups=cells.groups,
        k=3,
        seed=0,
    )
    units = plan_units(config, cells, splits[:1], [[]])
    material = study_material(units, cells, None)
    ray.init(address="local", num_cpus=cpus, log_to_driver=False, logging_level="error")
    try:
        warm = ray.remote(num_cpus=1)(_import_all)
        ray.get([warm.remote() for _ in range(cpus)])
        begun = time.perf_counter()
        done = len(list(execute_on_ray(units, material)))
        return done / (time.perf_counter() - begun)
    finally:
        ray.shutdown()


def _import_all() -> None:
    import factory.evaluate.tasks  # noqa: F401 -- what a first training would wait for

    time.sleep(2)  # so that the other worker starts too


@click.command()
@click.option("--num-images", default=400)
@click.option("--trainings", default=8)
@click.option("--steps", default=60)
@click.option("--rounds", default=3)
def main(num_images: int, trainings: int, steps: int, rounds: int) -> None:
    """Print the rates and their ratios."""
    cells = open_dataset(f"smear:{num_images}?seed=1&size={SIZE_PX}")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    space = FeatureSpace(
        name="random", digest="0" * 32, network=network.to(memory_format=torch.channels_last)
    )
    images = torch.from_numpy(cells.array(SIZE_PX))
    batches = [network_input(chunk) for chunk in torch.split(images, BATCH)]
    reference = space.extract(cells.array(SIZE_PX))
    passed, bare = alternate(
        lambda: metric_rate(space, cells, reference),
        lambda: bare_rate(space, batches),
        rounds=rounds,
    )
    print(told("metric pass", passed, "images/s"))
    print(told("bare network", bare, "images/s"))
    print(told("pass / bare", [a / b for a, b in zip(passed, bare, strict=True)], ""), "bar 0.90")
    two, one = alternate(
        lambda: arms_rate(2, cells, trainings, steps),
        lambda: arms_rate(1, cells, trainings, steps),
        rounds=rounds,
    )
    print(told("trainings on 2 workers", [60 * rate for rate in two], "a minute"))
    print(told("trainings on 1 worker", [60 * rate for rate in one], "a minute"))
    ratios = [a / b for a, b in zip(two, one, strict=True)]
    print(told("2 workers / 1", ratios, ""), "bar 1.70")


if __name__ == "__main__":
    main()
