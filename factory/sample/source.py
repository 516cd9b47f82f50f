"""The head of the stream: batch numbers as a Ray Data source that reserves no CPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

MAX_BLOCKS = 20_000
"""Ray Data keeps a little state per block; beyond this a block carries several batches."""
COLUMN = "number"


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
                    schema=pa.schema([(COLUMN, pa.int64())]),
                    per_task_row_limit=per_task_row_limit,
                )
            )
        return tasks


def _read(start: int, stop: int) -> Iterator[pa.Table]:
    yield pa.table({COLUMN: pa.array(range(start, stop), pa.int64())})


def numbers(count: int) -> ray.data.Dataset:
    """Return the stream's source. It reserves no CPU, and one process reads it.

    `ray.data.range` takes a whole core for every read, and two runs on a small cluster then wait
    for each other: their actors hold the cores that their reads need (seen on 2 cores). Without a
    limit on concurrency every block would start a process of its own (200 MiB and a second each).
    """
    return ray.data.read_datasource(
        Numbers(count), num_cpus=0, concurrency=1, override_num_blocks=min(count, MAX_BLOCKS)
    )
