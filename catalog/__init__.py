"""The catalog: versioned Delta tables of samples, runs, models and studies, published exactly once.

Importing it loads neither torch nor ray, and Arrow and Delta only when a name is first used, so
that `factory --help` need not wait for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalog.batch import BatchFile, write_batch
    from catalog.query import sql
    from catalog.results import record_evaluation
    from catalog.reviews import Review, record_review
    from catalog.sink import SampleSink, record_model, record_run
    from catalog.table import Catalog

_HOMES = {
    "BatchFile": "catalog.batch",
    "Catalog": "catalog.table",
    "Review": "catalog.reviews",
    "SampleSink": "catalog.sink",
    "record_evaluation": "catalog.results",
    "record_model": "catalog.sink",
    "record_review": "catalog.reviews",
    "record_run": "catalog.sink",
    "sql": "catalog.query",
    "write_batch": "catalog.batch",
}

__all__ = [
    "BatchFile",
    "Catalog",
    "Review",
    "SampleSink",
    "record_evaluation",
    "record_model",
    "record_review",
    "record_run",
    "sql",
    "write_batch",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'catalog' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
