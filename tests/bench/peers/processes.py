"""Processes that a bench starts: their CPU seconds, and their end, with all that they started."""

import time

import psutil

LOOK_SECONDS = 0.02
END_SECONDS = 20.0
"""What outlives its parent is waited for so long, then ended."""


class Family:
    """A process and its descendants, looked at while they live."""

    def __init__(self, pid: int) -> None:
        self._all = {pid: psutil.Process(pid)}
        self._seconds: dict[int, float] = {}

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all of them so far."""
        return sum(self._seconds.values())

    def look(self) -> None:
        """Take down their times, and who is new."""
        for process in list(self._all.values()):
            try:
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system
                for child in process.children(recursive=True):
                    self._all.setdefault(child.pid, child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue

    def end(self) -> None:
        """Wait for what outlived its parent (Ray's processes notice its end), then end it."""
        until = time.monotonic() + END_SECONDS
        while (rest := self._living()) and time.monotonic() < until:
            self.look()
            time.sleep(LOOK_SECONDS)
        for process in rest:
            process.kill()

    def _living(self) -> list[psutil.Process]:
        return [process for process in self._all.values() if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
