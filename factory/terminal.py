r"""What reaches a terminal: text of others cannot move its cursor, recolour it or forge a line.

Names come from folders, rows and headers that anybody may have written. `guarded` stands between
everything that is printed and the terminal, so no command can forget it; `one_line` is for names
inside a line, where even a line break would forge another, and `say` prints such a line; `console`
is rich's, with the same rule. Characters that do something instead of showing something are written
as JSON writes them, `\u001b`: a printed JSON text stays one, and reads back as what it was.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:  # 60 ms that `factory --help` need not pay
    from rich.console import Console

Tell = Callable[[str], object]
"""Gets a line to show."""
TOLD = "told: "
"""Begins a line by which a worker of Ray speaks to whoever sits at the driver."""
_ACTING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # C0, DEL and C1, but for tabs and ends of lines
    "|\r(?!\n)"
    "|[\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # lines; directions of writing
    "|[\ud800-\udfff]"  # bytes of names that are no UTF-8: no encoding can write them
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BREAKS = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_CREDENTIALS = re.compile(
    r"""(?x) ( \w :// ) [^/\s"'<>@:]* : (?! \d{1,5} (?: [/?\#] | $ ) ) [^\s"'<>]* @ """
)
"""User and password in a URL. A secret may hold '/': it reaches to the last '@' of the word."""


def one_line(text: object) -> str:
    """Return `text` as one line in which nothing acts: a name, or a message with names in it."""
    return re.sub(r"[\n\t\r]", lambda found: _BREAKS[found[0]], escaped(str(text)))


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever names are in it."""
    click.echo(one_line(text), err=err)


def tell_driver(text: str) -> None:
    """Print one line on a worker of Ray; where its driver shows workers, a person reads it."""
    say(f"{TOLD}{text}")


def shown_of_worker(lines: Iterable[str]) -> Iterator[str]:
    """Yield what workers told of all that they and Ray wrote, as it was told."""
    yield from (line.removeprefix(TOLD) for line in lines if line.startswith(TOLD))


def duration(seconds: float) -> str:
    """Return '45 s', '12 min', '3 h 20 min' or '4 d'."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d"


def rate(per_second: float) -> str:
    """Return '0.012', '4.0' or '2112'."""
    if per_second < 1:
        return f"{per_second:.2g}"
    return f"{per_second:.1f}" if per_second < 10 else f"{per_second:.0f}"


class Pace:
    """Tells now and then how far a count has come, and what is left."""

    def __init__(self, total: int, what: str, tell: Tell | None, *, seconds: float = 10.0) -> None:
        self._total, self._what, self._tell, self._seconds = total, what, tell, seconds
        self._begun = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        """Tell of the first `done`, unless a line was told some seconds ago, or all are done."""
        now = time.monotonic()
        if self._tell is None or done >= self._total or now - self._told < self._seconds:
            return
        self._told, speed = now, done / (now - self._begun)
        left = duration((self._total - done) / speed)
        self._tell(f"{done} of {self._total} {self._what}, {rate(speed)}/s; {left} left")


def escaped(text: str) -> str:
    """Return `text` with the characters that act written out; lines stay lines."""
    if text.isascii() and text.isprintable():
        return text
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_passwords(text: str) -> str:
    """Return `text` with '***' for user and password of every URL in it."""
    return _CREDENTIALS.sub(r"\1***@", text) if "@" in text else text


def holds_password(text: str) -> bool:
    """Whether there is a URL with a password in `text`."""
    return _CREDENTIALS.search(text) is not None


@contextmanager
def guarded() -> Iterator[None]:
    """Let nothing act that is printed inside, whoever prints it; colours of others are left out."""
    held = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Guard(stream) for stream in held)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = held


def console(*, width: int | None = None) -> "Console":
    """Return a rich console on standard output; without a terminal it is `width` columns wide."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Guarded(Console):
        """Writes out what would act in what is shown; rich's own controls stay."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else escaped(text), style, control)

    stream = sys.stdout
    raw = stream.stream if isinstance(stream, _Guard) else None
    return Guarded(file=raw, width=None if stream.isatty() else width)


class _Guard:
    """A text stream that writes out what would act."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write; a carriage return passes first and last, where progress bars have theirs."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes str, not {type(text).__name__}")
        inner = text.strip("\r")
        start = text.find(inner)
        clean = escaped(_COLOUR.sub("", inner))
        self.stream.write(f"{text[:start]}{clean}{text[start + len(inner) :]}")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep progress bars, one a file, and remarks of diffusers and transformers to themselves."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    both = (of_diffusers, of_transformers)
    before = [(each.is_progress_bar_enabled(), each.get_verbosity()) for each in both]
    for each in both:
        each.disable_progress_bar()
        each.set_verbosity_error()
    try:
        yield
    finally:
        for each, (shown, verbosity) in zip(both, before, strict=True):
            each.set_verbosity(verbosity)
            if shown:
                each.enable_progress_bar()
