"""A Ray head of the fault tests' own: they kill what runs on it and nothing else."""

from collections.abc import Iterator

import pytest

from cluster.local import Head, ray_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """The head; drivers need its token in their environment."""
    with ray_head() as ray:
        yield ray
