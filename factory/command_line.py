"""What a person types, and how a command ends: the program's name here, signals, exit status.

    0    done
    1    an error, told in one line with what to do
    2    wrong usage
    128+ stopped by a signal: 130 Ctrl-C, 143 SIGTERM, 129 the terminal was closed

Whatever stops a command, what it published or saved stays.
"""

import os
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from factory.terminal import say

PROGRAM = "FACTORY_COMMAND"
"""Variable: how the factory is called where a job's output is read, which is another machine."""
STOPPING = (signal.SIGTERM, signal.SIGHUP)


_came: list[int] = []
"""Signals of `STOPPING` that came since `stoppable` was entered."""


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end: whoever cleans up after Ctrl-C does so after it too."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


def program() -> str:
    """Return how the factory is called here: `factory` where the shell finds this very one.

    Else the path of its script, seen from the working folder, or the module for Python to run.
    """
    if told := os.environ.get(PROGRAM):
        return told
    own = Path(sys.executable).parent / "factory"
    found = shutil.which("factory")
    if found is not None and own.exists() and Path(found).resolve() == own.resolve():
        return "factory"
    here = Path.cwd()
    if own.is_file():
        return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))
    return f"{shlex.quote(sys.executable)} -m factory.cli"


def typed(*words: object) -> str:
    """Return a command of the factory as it can be typed here, quoted for the shell."""
    return f"{program()} {shlex.join(map(str, words))}"


def as_typed(text: str, commands: Collection[str]) -> str:
    """Return `text` with every `factory COMMAND` in it as it can be typed here."""
    verbs = "|".join(map(re.escape, sorted(commands)))
    called = program()
    return re.sub(rf"(?<![\w./-])factory(?= (?:{verbs})\b)", lambda _: called, text)


def tell_next(*words: object) -> None:
    """Say on the error stream, which no pipe reads, what one may do next."""
    say(f"next     {typed(*words)}", err=True)


@contextmanager
def goes_on(what: str) -> Iterator[None]:
    """Say, when a command is stopped inside, what stays and that the same words go on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; {what}. Go on with: {typed(*sys.argv[1:])}")
        raise


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM, and the end of the terminal, into `Stopped`; a second one ends at once.

    Signals that are ignored, as under nohup, stay so. Ray reads when it is imported, which is
    later, that it is to write no trace of C++ at a signal.
    """
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in STOPPING}

    def stop(signum: int, _frame: FrameType | None) -> None:
        _came.append(signum)
        signal.signal(signum, signal.SIG_DFL)
        raise Stopped(signum)

    _came.clear()

    for signum, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def signal_of(stopped: BaseException | None) -> signal.Signals:
    """Return the signal that stopped a command: SIGINT for Ctrl-C.

    What waits in Ray makes a bare KeyboardInterrupt of `Stopped`; the signal came all the same.
    """
    if isinstance(stopped, Stopped):
        return signal.Signals(stopped.signum)
    return signal.Signals(_came[-1]) if _came else signal.SIGINT


def status_of(stopped: BaseException | None) -> int:
    """Return the exit status after a signal: 130 for Ctrl-C."""
    return 128 + signal_of(stopped)
