"""One catalog and one client for the tests that only look."""

import pytest

from tests.fakes.gallery import catalog_at, client_of


@pytest.fixture(scope="session")
def uri(tmp_path_factory):
    return catalog_at(tmp_path_factory.mktemp("gallery") / "catalog")


@pytest.fixture(scope="session")
def client(uri):
    return client_of(uri)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Let a question take longer than a user would wait: the machine may do much else beside."""
    monkeypatch.setattr("catalog.gallery.listing.CONDITION_SECONDS", 300.0)
