"""The stream: batches through Ray Data from sampling actors to files, as fast as actors draw.

    batch numbers -> SampleActor (a model each) -> encode, gate, write (CPU tasks) -> files

The plan travels as recipes and counts; what flows between the stages is one batch at a time, so
memory depends on the actors in flight and not on the number of images.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from catalog.sink import BatchFile
from factory.device import cluster_gpus
from factory.errors import FactoryError
from factory.sample.batches import NUMBER, SampleActor, write_drawn
from factory.sample.config import StreamConfig
from factory.sample.plan import Ranges
from factory.sample.prepare import Run

ENCODE_CPUS = 0.25
"""Share of a core reserved for an encoding task; actors leave it free."""


def stream_batches(
    run: Run, indices: Sequence[int] | NDArray[np.int64], config: StreamConfig
) -> Iterator[BatchFile]:
    """Draw, judge and write the batches with these indices; yield each file when it is written.

    Files come in any order. Nothing is published here: that is the sink's commit.

    Raises:
        FactoryError: from a worker, as it was raised there.
    """
    _quiet()
    todo = Ranges.of(indices)
    pool, resources = actor_pool(config, batches=len(todo))
    written = (
        numbers(len(todo))
        .map_batches(
            SampleActor,
            fn_constructor_args=(run, todo),
            batch_size=1,
            compute=pool,
            **resources,
        )
        .map_batches(write_drawn, fn_kwargs={"run": run}, batch_size=None, num_cpus=ENCODE_CPUS)
    )
    try:
        for row in written.iter_rows():
            yield BatchFile(**row)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error


def actor_pool(
    config: StreamConfig, *, batches: int
) -> tuple[ray.data.ActorPoolStrategy, dict[str, Any]]:
    """Return how many actors run, and the resources of each.

    A GPU each, or a share of one, where GPUs are asked for or the cluster has any; else most of a
    core. Either way a core serves an actor and its encoding. As many begin as there is room for
    now, or one: it waits for the GPU that a growing cluster then starts, and so do those that the
    pool adds while there is work for them.
    """
    live, most_gpus = cluster_gpus()
    share = gpus_per_actor(config)
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    now, room = (min(cores, int(live / share)), int(most_gpus / share)) if share else (cores, cores)
    if share and config.gpus_per_actor:  # asked for: the cluster may grow by more than it tells
        room = max(room, batches)
    asked = config.actors if isinstance(config.actors, tuple) else (1, config.actors or room)
    most = asked[1] if isinstance(config.actors, tuple) else max(1, min(asked[1], room))
    least = min(asked[0], most)
    pool = ray.data.ActorPoolStrategy(
        min_size=least, max_size=most, initial_size=max(least, min(most, now))
    )
    return pool, {"num_cpus": 1 - ENCODE_CPUS} | ({"num_gpus": share} if share else {})


def gpus_per_actor(config: StreamConfig) -> float:
    """Return the GPUs of a sampling actor on the Ray joined: asked for, or 1 where it has any."""
    if config.gpus_per_actor is not None:
        return config.gpus_per_actor
    return float(cluster_gpus()[1] >= 1)


def about_precision(dtype: str, gpus_per_actor: float) -> list[str]:
    """Return what is to be said of a run that asks GPUs for more digits than it needs.

    Nothing is changed by itself: the precision decides bits, and so it names the run, which the
    same command must find again on any machine.
    """
    if dtype != "float32" or not gpus_per_actor:
        return []
    return [
        "GPUs draw in float32 as asked: the same bits as a run begun elsewhere. With --set"
        " dtype=bfloat16 they draw several times as fast, as a run of its own"
    ]


def _quiet() -> None:
    """Leave progress to the run: Ray Data's own bars count blocks, not images."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else only its text reaches the driver
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and told once


def fetched(ref: Any) -> Any:
    """Return what a task of Ray gave, or raise what it raised, as if it had been done here."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error


def _cause(error: ray.exceptions.RayTaskError) -> BaseException:
    """Return the FactoryError inside a Ray error, or the Ray error itself."""
    cause: Any = error
    while isinstance(cause, BaseException):
        if isinstance(cause, FactoryError) and not isinstance(cause, ray.exceptions.RayTaskError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cast("BaseException", error)


MAX_BLOCKS = 20_000
"""Ray Data keeps a little state per block; beyond this a block carries several batches."""


class Numbers(Datasource):  # type: ignore[misc]
    """The numbers 0 .. count - 1, a block each as long as there are no more than `MAX_BLOCKS`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def estimate_inmemory_data_size(self) -> int:
        """Return bytes of all blocks together."""
        return 8 * self._count

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002 -- Ray passes it by name
    ) -> list[ReadTask]:
        """Return at most `parallelism` tasks that together yield every number once, in order."""
        step = max(1, -(-self._count // max(1, parallelism)))
        tasks = []
        for start in range(0, self._count, step):
            stop = min(start + step, self._count)
            metadata = BlockMetadata(
                num_rows=stop - start, size_bytes=8 * (stop - start), input_files=None,
                exec_stats=None,
            )  # fmt: skip
            tasks.append(
                ReadTask(
                    partial(_read, start, stop),
                    metadata,
                    schema=pa.schema([(NUMBER, pa.int64())]),
                    per_task_row_limit=per_task_row_limit,
                )
            )
        return tasks


def _read(start: int, stop: int) -> Iterator[pa.Table]:
    yield pa.table({NUMBER: pa.array(range(start, stop), pa.int64())})


def numbers(count: int) -> ray.data.Dataset:
    """Return the stream's source. It reserves no CPU, and one process reads it.

    `ray.data.range` takes a whole core for every read, and two runs on a small cluster then wait
    for each other: their actors hold the cores that their reads need (seen on 2 cores). Without a
    limit on concurrency every block would start a process of its own (200 MiB and a second each).
    """
    return ray.data.read_datasource(
        Numbers(count), num_cpus=0, concurrency=1, override_num_blocks=min(count, MAX_BLOCKS)
    )
