"""Structured logs: one JSON object a line on stderr, with the ids of run and batch.

Without `--log-format json` (or FACTORY_LOG_FORMAT=json) nothing is added to what a person reads.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from factory.errors import ConfigError
from factory.monitor.recorder import Recorder, RunInfo

if TYPE_CHECKING:  # `factory --help` need not wait for Arrow
    from catalog.sink import BatchFile

FORMATS = ("text", "json")
FORMAT = "FACTORY_LOG_FORMAT"
"""Variable that chooses one of `FORMATS`."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_log = logging.getLogger("factory.run")
_log.addHandler(logging.NullHandler())  # else Python prints its errors, which the CLI tells better


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message and its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what JSON does not know becomes text."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)


def set_up(chosen: str, stream: TextIO | None = None) -> None:
    """Choose how logs of the factory are written; 'text' leaves warnings to Python's own way.

    Raises:
        ConfigError: another format.
    """
    if chosen not in FORMATS:
        raise ConfigError(f"{FORMAT} is {chosen!r}", remedy=f"Choose one of {', '.join(FORMATS)}")
    root = logging.getLogger("factory")
    for handler in [h for h in root.handlers if isinstance(h.formatter, JsonLines)]:
        root.removeHandler(handler)
    root.propagate, level = chosen == "text", logging.NOTSET
    if chosen == "json":
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(JsonLines())
        root.addHandler(handler)
        level = logging.INFO
    root.setLevel(level)


class LogRecorder(Recorder):
    """Logs the steps of a run."""

    def __init__(self) -> None:
        self._run_id = ""

    def begun(self, run: RunInfo) -> None:
        """Log what is asked for."""
        self._run_id = run.run_id
        self._say(
            "run begun",
            catalog=run.catalog_uri,
            model_id=run.model_id,
            requested=run.num_requested,
            published=run.num_published,
        )

    def drawn(self, file: "BatchFile", *, left: int, waiting: int) -> None:
        """Log a batch and its verdicts."""
        self._say(
            "batch drawn",
            batch_index=file.batch_index,
            accepted=file.num_accepted,
            rejected_by_gate=json.loads(file.rejected_by_gate),
            left=left,
            waiting=waiting,
        )

    def committed(self, files: Sequence["BatchFile"], *, seconds: float) -> None:
        """Log a commit and its batches."""
        batches = [file.batch_index for file in files]
        self._say("batches published", batch_indices=batches, seconds=round(seconds, 3))

    def retried(self) -> None:
        """Log a retry."""
        self._say("commit retried")

    def completed(self, *, version: int | None) -> None:
        """Log the end."""
        self._say("run complete", version=version)

    def failed(self, error: BaseException) -> None:
        """Log why a run ended early."""
        _log.error(
            "run failed",
            extra={"run_id": self._run_id, "error": f"{type(error).__name__}: {error}"},
        )

    def _say(self, message: str, **fields: object) -> None:
        extra: Mapping[str, object] = {"run_id": self._run_id, **fields}
        _log.info(message, extra=extra)
