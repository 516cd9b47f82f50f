"""Running the steps of a plan: each a command of its own, skipped where what it writes stands."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from factory.atomic import write_text, writing
from factory.command_line import goes_on, typed
from factory.start.plan import Step
from factory.terminal import duration

JOURNAL = "start.json"
"""In the output folder: the commands that ended well."""


class Journal:
    """The plan that was agreed on, and which of its commands ended well."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        """Read what stands in `folder`; a plan of something else than `asked` is passed over."""
        self._path, self._asked = folder / JOURNAL, dict(asked)
        self.steps: tuple[Step, ...] = ()
        self._done: list[list[str]] = []
        with suppress(OSError, ValueError, TypeError, KeyError):  # none yet, or spoilt
            stored = json.loads(self._path.read_text())
            if stored["asked"] == self._asked:
                self.steps = _STEPS.validate_python(stored["steps"])
                self._done = stored["done"]

    def agree(self, steps: Sequence[Step]) -> None:
        """Keep a plan: the same words go on with it, whatever another measurement says.

        Raises:
            OutputError: the folder cannot be written.
        """
        self.steps = tuple(steps)
        self._save()

    def holds(self, step: Step) -> bool:
        """Whether a step ended well, by these very words, and what it wrote stands."""
        return list(step.words) in self._done and step.writes.exists()

    def add(self, step: Step) -> None:
        """Note that a step ended well."""
        self._done.append(list(step.words))
        self._save()

    def _save(self) -> None:
        steps = _STEPS.dump_python(self.steps, mode="json")
        told = {"asked": self._asked, "steps": steps, "done": self._done}
        with writing(self._path):
            write_text(self._path, json.dumps(told, indent=1) + "\n")


_STEPS = TypeAdapter(tuple[Step, ...])


def run_steps(
    journal: Journal,
    *,
    tell: Callable[[str], object],
    command: Sequence[str] = (sys.executable, "-m", "factory.cli"),
) -> int:
    """Run what is left, one after another; return the exit status, of the first that fails.

    A step sees the terminal itself. Ctrl-C reaches it and ends it as it ends when typed alone.

    Raises:
        OutputError: the journal cannot be written.
    """
    steps = journal.steps
    left = [step for step in steps if not journal.holds(step)]
    if done := len(steps) - len(left):
        tell(f"{done} of {len(steps)} steps are done")
    for number, step in enumerate(left):
        seconds = sum(each.seconds for each in left[number:])
        tell("")
        tell(
            f"step {done + number + 1} of {len(steps)}: {step.title}"
            f" (about {duration(step.seconds)}; of all {duration(seconds)} left)"
        )
        tell(f"  {typed(*step.words)}")
        with goes_on("finished steps stay"):
            status = _run([*command, *step.words])
        if status:
            return status
        journal.add(step)
    return 0


def _run(words: Sequence[str]) -> int:
    """Run a command to its end; where this process is asked to stop, it is asked too."""
    child = subprocess.Popen(words, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        status = child.wait()
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # SIGTERM came to this process alone
            child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    return status if status >= 0 else 128 - status
