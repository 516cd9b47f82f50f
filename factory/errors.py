"""The one error tree: what happened, the offending value, what to do next."""

import re

from factory.terminal import one_line, without_passwords


class FactoryError(Exception):
    """A problem that the user can act on.

    The message reads "what happened. What to do." The CLI and the jobs print it as one line and
    exit with 1; everything else that escapes is a bug and keeps its traceback. It is safe to show:
    names in it cannot act on a terminal, and passwords of URLs are left out.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = _without_stop(what)
        self.remedy = _without_stop(remedy)

    def __str__(self) -> str:
        return f"{_ended(self.what)} {_ended(self.remedy)}"

    def __reduce__(self) -> tuple[object, ...]:  # Ray carries errors between processes
        return (_rebuild, (type(self), self.what, self.remedy))


def _without_stop(sentence: str) -> str:
    joined = re.sub(r"\s*[\r\n]+\s*", " ", sentence.rstrip())  # others' messages have lines
    bare = one_line(without_passwords(joined))
    return bare if bare.endswith("...") else bare.rstrip(". ")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("...") else f"{sentence}."


def _rebuild(kind: "type[FactoryError]", what: str, remedy: str) -> "FactoryError":
    return kind(what, remedy=remedy)


class ConfigError(FactoryError):
    """A configuration key, type or value is wrong."""


class DataError(FactoryError):
    """A real image, table, mask or split is broken or inconsistent."""


class ModelError(FactoryError):
    """A generator folder or checkpoint is missing, truncated or unsafe."""


class CatalogError(FactoryError):
    """A catalog cannot be read, written or queried as asked."""


class ClusterError(FactoryError):
    """Ray cannot be reached or refused the work."""


class OutputError(FactoryError):
    """A file cannot be written where it was asked for."""


class SearchError(FactoryError):
    """A search has nothing to show."""
