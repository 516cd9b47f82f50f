"""What can be wrong with an address, told apart by the HTTP status that says so."""

from factory.errors import CatalogError


class BadAddress(CatalogError):
    """A parameter of the address cannot have this value: status 400."""


class NotHere(CatalogError):
    """The catalog has no such image, run or page: status 404."""
