"""Checkpoints in safetensors: each worker's shard, written beside the training, whole or absent.

Sharding, copying aside and resharding to another number of workers are torch's distributed
checkpoint; the folder's name, its notes and its appearance in one rename are ours.
"""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from factory.atomic import write_text
from factory.errors import ModelError
from factory.finetune.stages import check_seal, seal
from factory.finetune.workers import host_group

NOTES = "notes.json"

# A training in one process is meant to be one; and what fails is told once, by our own errors.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")
for _name in ("torch.distributed.checkpoint", "c10d-NullHandler-dcp_logger"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What a checkpoint says of itself beside tensors."""

    step: int
    config: Mapping[str, Any]
    """Everything the weights depend on; a run with another one may not continue."""
    metrics: Mapping[str, float] = field(default_factory=dict)


_NOTES = TypeAdapter(Notes)


class Checkpoints:
    """A folder of checkpoints of one run: the newest few, and the best by a metric."""

    def __init__(self, folder: Path, *, keep: int = 2, best_by: str | None = None) -> None:
        """Keep the newest `keep` and, beside them, the one whose metric `best_by` is lowest."""
        self.folder, self.keep, self.best_by = Path(folder), keep, best_by
        self._pending: Future[Any] | None = None
        self._group = host_group()  # its messages must not mix with those of the training

    def save(self, tensors: Mapping[str, Tensor], notes: Notes) -> None:
        """Begin to write `folder/step-<step>`; training may go on and change the tensors.

        Every worker calls it with its own shards. Waits for the checkpoint before, if it is still
        being written.

        Raises:
            ModelError: the checkpoint before could not be written.
        """
        self.wait()
        target = self.folder / f"step-{notes.step:08d}"
        work = target.with_name(f".{target.name}.partial")
        if not dist.is_initialized() or dist.get_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work, ignore_errors=True)
        self._pending = async_save(  # type: ignore[assignment]  # no stager of ours: a Future
            {name: tensor.detach() for name, tensor in tensors.items()},  # it copies them aside
            storage_writer=_Writer(work, target, notes, self._prune),
            process_group=self._group,
            no_dist=not dist.is_initialized(),
        )

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            ModelError: it could not be written; the checkpoints before it are whole.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (Exception, CheckpointException) as error:
            raise ModelError(
                f"a checkpoint below {self.folder} could not be written ({_reason(error)})",
                remedy="Make room and start the run again; it goes on from the checkpoint before",
            ) from error

    def newest(self) -> Path | None:
        """Return the checkpoint of the highest step, or None."""
        return next(reversed(self._all()), None)

    def best(self) -> Path | None:
        """Return the checkpoint with the lowest metric `best_by`; None where none was measured."""
        scored = {}
        for path in self._all():
            with suppress(ModelError):  # a damaged one is nobody's best
                scored[path] = read_notes(path).metrics.get(self.best_by or "", math.inf)
        best = min(scored, key=lambda path: scored[path], default=None)
        return best if best and scored[best] < math.inf else None

    def _all(self) -> list[Path]:
        return checkpoints(self.folder)

    def _prune(self) -> None:
        spared = self.best()
        for old in self._all()[: -self.keep]:
            if old != spared:
                shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints below `folder`, oldest first."""
    return sorted(p for p in Path(folder).glob("step-*") if (p / NOTES).exists())


def read_notes(path: Path) -> Notes:
    """Return the notes of a checkpoint.

    Raises:
        ModelError: they are missing or damaged.
    """
    try:
        return _NOTES.validate_json((path / NOTES).read_bytes())
    except (OSError, ValidationError) as error:
        raise _unreadable(path, error) from error


def load_checkpoint(path: Path, tensors: Mapping[str, Tensor], *, config: Mapping[str, Any]) -> int:
    """Fill `tensors` in place, whatever the number of workers that wrote them; return the step.

    Raises:
        ModelError: missing, truncated or changed files, or a checkpoint of another configuration.
    """
    notes = read_notes(path)
    _check_config(path, notes, config)
    try:
        load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(path)),
            no_dist=not dist.is_initialized(),
        )
    except (Exception, CheckpointException) as error:  # the latter is a BaseException
        raise _unreadable(path, error) from error
    check_seal(path)
    return notes.step


def check_newest(folder: Path, *, config: Mapping[str, Any]) -> None:
    """Raise unless a run with `config` may go on from the newest checkpoint below `folder`.

    Raises:
        ModelError: it is of another configuration, or its notes are damaged.
    """
    for path in checkpoints(folder)[-1:]:
        _check_config(path, read_notes(path), config)


def _check_config(path: Path, notes: Notes, config: Mapping[str, Any]) -> None:
    if "split_digest" not in notes.config:  # those of a base did not name it
        config = {key: value for key, value in config.items() if key != "split_digest"}
    if differing := _differences(notes.config, config):
        raise ModelError(
            f"checkpoint {path} was made with another configuration: {'; '.join(differing)}",
            remedy="Use another output folder, or the configuration it was started with",
        )


class _Writer(HuggingFaceStorageWriter):
    """Writes shards into a hidden folder and, when all workers have, gives it its name."""

    def __init__(self, work: Path, target: Path, notes: Notes, written: Callable[[], None]) -> None:
        super().__init__(str(work), save_distributed=True)
        self._work, self._target, self._notes, self._written = work, target, notes, written

    def finish(self, metadata: Any, results: Any) -> None:
        """Called on the first worker, after the last shard of any worker is on disk."""
        super().finish(metadata, results)
        notes = self._notes
        stored = {"step": notes.step, "config": dict(notes.config), "metrics": dict(notes.metrics)}
        write_text(self._work / NOTES, json.dumps(stored, indent=1, sort_keys=True))
        seal(self._work)
        shutil.rmtree(self._target, ignore_errors=True)
        self._work.replace(self._target)
        self._written()


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any], at: str = "") -> list[str]:
    """Return 'key: stored -> asked' for every leaf that differs."""
    found = []
    for key in sorted({*stored, *asked}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{at}{key}.")
        elif old != new:
            found.append(f"{at}{key} {old!r} there, {new!r} here")
    return found


def _unreadable(path: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"checkpoint {path} cannot be read ({_reason(error)})",
        remedy="Delete this folder; the run then resumes from the one before it",
    )


def _reason(error: BaseException) -> str:
    """Return what went wrong in a line; torch tells it per worker, with a traceback."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
