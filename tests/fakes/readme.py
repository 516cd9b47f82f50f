"""The commands that README and docs type, and whether the command line knows them.

What is asked of a command: its verb, its options with their values, the preset of `--config`, and
that each `--set` fits the configuration of that command. Nothing is opened or run.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from factory.cli import cli
from factory.config import load_config
from factory.errors import FactoryError
from factory.evaluate.config import StudyConfig
from factory.finetune.config import ExpertConfig
from factory.finetune.methods import SMALL, load_training
from factory.judge.config import JudgeConfig
from factory.sample.config import GenerateConfig
from factory.search.config import SweepConfig

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SKILL = ROOT / "factory" / "agent" / "skill.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", SKILL, *sorted((ROOT / "docs").rglob("*.md"))]
"""All that types commands; the changelog also tells of those that are gone."""
JOURNEY = "## Your own images"
"""Section of README that is typed in order."""


def _of(kind: type[Any]) -> Callable[[str, Sequence[str]], object]:
    return lambda source, overrides: load_config(kind, source, overrides)


CONFIGURED: dict[str, tuple[str, Callable[[str, Sequence[str]], object]]] = {
    "generate": ("wbc", _of(GenerateConfig)),
    "finetune": (SMALL, load_training),
    "memory": (SMALL, load_training),
    "pretrain": ("wbc_base", load_training),
    "ablate": ("feature_aligned", load_training),
    "expert": ("expert", _of(ExpertConfig)),
    "judge": ("judge", _of(JudgeConfig)),
    "evaluate": ("evaluate", _of(StudyConfig)),
    "sweep": ("wbc_sweep", _of(SweepConfig)),
}
"""Verb -> its preset where none is named, and what reads its configuration."""


def section(title: str) -> str:
    """Return the text of README between a title of the second level and the next."""
    return README.read_text().partition(f"\n{title}\n")[2].partition("\n## ")[0]


def code(text: str) -> list[str]:
    """Return the lines of a text's code blocks, those that end with a backslash joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", joined, re.DOTALL | re.MULTILINE)
    blocks = [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    return [*blocks, *(line for block in fenced for line in block.splitlines())]


def commands(text: str) -> list[list[str]]:
    """Return the commands of a text's code blocks as words after `factory`, without comments."""
    found = [re.match(r"(?:\S*/)?factory ", line) for line in code(text)]
    lines = [match.string for match in found if match]
    return [_first(shlex.split(line, comments=True)[1:]) for line in lines]


def mentioned(text: str) -> list[list[str]]:
    """Return the commands in code spans of a text, cut where they are no words of a shell."""
    spans = re.findall(r"`factory ([a-z-][^`]*)`", text)
    return [_first(_words(" ".join(span.split()))) for span in spans]


def presets(text: str) -> set[str]:
    """Return what a text gives to `--config` and what is no file's name."""
    return set(re.findall(r"--config ([a-z]\w*)(?![\w./])", text))


def targets(text: str) -> set[str]:
    """Return the targets of make that a text types."""
    typed = [line for line in code(text) if line.startswith("make ")]
    typed += re.findall(r"`(make [a-z-]+)`", text)
    return {line.split()[1] for line in typed}


def scripts(text: str) -> set[str]:
    """Return the scripts and modules that a text lets Python run, as paths."""
    found = re.findall(r"python (?:-m )?((?:tests|docs|cluster|jobs)[\w./]+)", text)
    return {name if "/" in name else f"{name.replace('.', '/')}.py" for name in found}


def _first(words: list[str]) -> list[str]:
    """Return a command without what a shell does with its output."""
    ends = [words.index(mark) for mark in ("|", ">", "&&") if mark in words]
    return words[: min(ends, default=len(words))]


def _words(span: str) -> list[str]:
    try:
        return shlex.split(span)
    except ValueError:  # a quotation that goes on behind the span
        return span.split()


def unknown(words: Sequence[str]) -> Iterator[str]:
    """Yield the verbs and options of a command that the command line does not have."""
    command: click.Command = cli
    rest = [word for word in words if word != "..."]
    while isinstance(command, click.Group) and rest:
        if rest[0] == "--log-format":  # the one option before a verb
            del rest[:2]
            continue
        if rest[0].startswith("-"):
            break
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


def refused(words: Sequence[str]) -> Iterator[str]:
    """Yield why the command line or its configuration would refuse a command of a code block.

    Files need not be there: of a configuration that is one, the command's own preset stands for it.
    """
    rest = [word for word in words if word != "..."]
    verb = next((word for word in rest if word in cli.commands), None)
    if verb is None or any(unknown(words)):
        return
    command, rest = cli.commands[verb], rest[rest.index(verb) + 1 :]
    if isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands:
            return
        command, rest = command.commands[rest[0]], rest[1:]
    context = click.Context(command, info_name=verb)
    try:
        given, _, _ = command.make_parser(context).parse_args(list(rest))
    except click.UsageError as error:
        yield error.format_message()
        return
    if verb not in CONFIGURED or command.name != verb:
        return
    preset, load = CONFIGURED[verb]
    asked = given.get("source")
    source = preset if asked is None or "." in asked else asked
    yield from _refusal(load, source, given.get("overrides") or [])
    if verb == "ablate":
        yield from _refusal(_of(JudgeConfig), "judge", given.get("judging") or [])
        key, _, values = given["vary"].partition("=")
        for value in values.split(","):
            yield from _refusal(load, source, [f"{key}={value}"])


def _refusal(load: Callable[[str, Sequence[str]], object], *asked: Any) -> Iterator[str]:
    try:
        load(*asked)
    except FactoryError as error:
        yield str(error)
