"""The commands that README and docs type, and whether the command line knows them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from factory.cli import cli

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
JOURNEY = "## Your own images"
"""Section of README that is typed in order."""


def section(title: str) -> str:
    """Return the text of README between a title of the second level and the next."""
    return README.read_text().partition(f"\n{title}\n")[2].partition("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """Return the commands of a text's code blocks as words after `factory`, without comments."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line.startswith("    factory ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def mentioned(text: str) -> list[list[str]]:
    """Return the commands in code spans of a text, cut where they are no words of a shell."""
    spans = re.findall(r"`factory ([a-z][^`]*)`", text)
    return [span.split() for span in spans]


def unknown(words: Sequence[str]) -> Iterator[str]:
    """Yield the verbs and options of a command that the command line does not have."""
    command: click.Command = cli
    rest = [word for word in words if word not in ("|", "...")]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            yield name
            return
        command = command.commands[name]
    known = {"--help"}.union(*([*p.opts, *p.secondary_opts] for p in command.params))
    for word in rest:
        if word == "--":
            return
        if word.startswith("-") and word.partition("=")[0] not in known:
            yield word
