"""One catalog and one client for the tests that only look."""

import pytest

from tests.fakes.gallery import catalog_at, client_of


@pytest.fixture(scope="session")
def uri(tmp_path_factory):
    return catalog_at(tmp_path_factory.mktemp("gallery") / "catalog")


@pytest.fixture(scope="session")
def client(uri):
    return client_of(uri)
