"""Where a study's trainings run: in this process, or on Ray with a core and a share of a GPU each.

A share says how many trainings use a GPU side by side, and nothing of a result: small networks
leave most of a GPU idle alone. The heads of probes are solved on the CPU, and gain from none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from factory.device import cluster_gpus
from factory.errors import ConfigError
from factory.evaluate.config import Classifier, Learner, Learning, MaskProbe, Probe
from factory.evaluate.outset import expected_seconds
from factory.evaluate.tasks import run_unit
from factory.evaluate.units import Material, Result, Unit
from factory.measure.intervals import counted

SMALL_SHARE = 0.25
SMALL_PIXELS = 32 * 128 * 128
"""Of a batch: with more a training is alone on its GPU. By memory, of which a ResNet-50 takes some
4 GiB so; never measured on a GPU."""
AT_ONCE = 8
"""Trainings of a task at most: each task starts a process, whose seconds a short training takes."""


def execute_here(units: Sequence[Unit], material: Material) -> Iterator[Result]:
    """Train one after another in this process."""
    yield from (run_unit(unit, material) for unit in units)


def execute_on_ray(
    units: Sequence[Unit], material: Material, room: "Room | None" = None
) -> Iterator[Result]:
    """Train side by side, as there is `room` (None: a core each); yield results as they come.

    A worker that dies is replaced; what its training would give is the same.

    Raises:
        FactoryError: from a worker, as it was raised there.
    """
    import ray

    from factory.sample.stream import fetched

    room = room or Room(at_once=1)
    shared = ray.put(material)
    task = ray.remote(num_cpus=1, num_gpus=room.gpus, max_retries=3)(_run_units)
    size = _trainings_a_task(units, room)
    waiting = [task.remote(units[n : n + size], shared) for n in range(0, len(units), size)]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        for ref in done:
            yield from fetched(ref)


def _trainings_a_task(units: Sequence[Unit], room: "Room") -> int:
    """Return how many: a probe is shorter than the start of a task, which a GPU makes longer."""
    if units and isinstance(units[0].learner, Probe | MaskProbe):
        return AT_ONCE
    return max(1, min(AT_ONCE, len(units) // (4 * room.at_once))) if room.gpus else 1


def _run_units(units: Sequence[Unit], material: Material) -> list[Result]:
    return [run_unit(unit, material) for unit in units]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What trainings have on the Ray joined: so many of them at once, a core each."""

    at_once: int
    gpus: float = 0.0
    """Of each."""
    gpus_looking: float = 0.0
    """Of the network of a probe, before its trainings, which need none."""

    def __str__(self) -> str:
        """Return how it is told."""
        if not self.gpus:
            return counted(self.at_once, "core")
        return f"{counted(self.at_once, 'core')}, with {told_share(self.gpus)} each"

    def execute(self, units: Sequence[Unit], material: Material) -> Iterator[Result]:
        """Train there, see `execute_on_ray`."""
        yield from execute_on_ray(units, material, self)

    def expected_seconds(self, units: Sequence[Unit], material: Material) -> float:
        """Return about how long these trainings take, by the first steps of one of them there."""
        if self.gpus:
            import ray

            from factory.sample.stream import fetched

            task = ray.remote(num_cpus=1, num_gpus=self.gpus)(expected_seconds)
            seconds = float(fetched(task.remote(units, material, threads=1)))
        else:
            seconds = expected_seconds(units, material, threads=1)
        return seconds / min(self.at_once, len(units))


def room_for(learner: Learner, asked: float | None) -> Room:
    """Return the room that trainings of a learner have on the Ray joined.

    Raises:
        ConfigError: see `gpus_per_training`.
    """
    import ray

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    gpus = gpus_per_training(learner, asked)
    if isinstance(learner, Probe):
        has_some = asked is None and cluster_gpus()[1] >= 1
        return Room(at_once=cores, gpus_looking=1.0 if has_some else gpus)
    if not gpus:
        return Room(at_once=cores)
    return Room(at_once=max(1, min(cores, fitting(cluster_gpus()[0], gpus))), gpus=gpus)


def gpus_per_training(learner: Learner, asked: float | None) -> float:
    """Return the GPUs of a training on the Ray joined: as asked; null: a share where it has any.

    Its node types decide, as far as it tells them, and not the nodes that live at the moment.

    Raises:
        ConfigError: some are asked of a cluster that has none.
    """
    most = cluster_gpus()[1]
    if asked and not most:
        raise ConfigError(
            f"gpus_per_training is {asked:g}, and this Ray cluster has 0 GPUs",
            remedy="Set gpus_per_training to 0 or null, or join a cluster with GPUs",
        )
    if asked is not None:
        return asked
    return usual_share(learner) if most >= 1 else 0.0


def usual_share(learner: Learner) -> float:
    """Return the GPUs of a training where nobody said, of a cluster that has some."""
    if not isinstance(learner, Learning):  # a probe: its head is solved on the CPU
        return 0.0
    if isinstance(learner, Classifier) and learner.clip is not None:
        return 1.0
    pixels = learner.batch_size * learner.size_px**2
    return SMALL_SHARE if pixels <= SMALL_PIXELS else 1.0


def fitting(gpus: float, share: float) -> int:
    """Return how many times a share fits into so many GPUs; 0.1 fits ten times into one."""
    return int(gpus / share + 1e-9)


def told_share(gpus: float) -> str:
    """Return a share as it is told: '0.25 of a GPU', '1 GPU'."""
    return f"{gpus:g} of a GPU" if gpus < 1 else counted(int(gpus), "GPU")
