"""Which place a catalog's URI means: a folder of this machine or an object store."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from factory.errors import CatalogError
from factory.terminal import holds_password

STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""Schemes of object stores that delta-rs commits to safely."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a catalog lies, and how its store is reached; as text the URI alone."""

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of delta-rs' object stores (AWS_ENDPOINT_URL, ...); never written to rows or logs."""

    def __str__(self) -> str:
        return self.uri

    @property
    def words(self) -> list[str]:
        """The options of a command that name it; values of storage options may be secret."""
        given = [w for n in sorted(self.storage_options) for w in ("--storage-option", f"{n}=...")]
        return ["--catalog", self.uri, *given]


Where = str | Path | Place
"""A catalog's place; a folder, or a store whose options stand in the environment, is its URI."""


def place_of(where: Where) -> Place:
    """Return a place from whatever names one."""
    return where if isinstance(where, Place) else Place(str(where))


def options_of(where: Where) -> dict[str, str] | None:
    """Return the options of a place as delta-rs takes them."""
    return dict(place_of(where).storage_options) or None


def table_uri(uri: Where, name: str) -> str:
    """Return the URI of table `name` (a key of `TABLES`) in the catalog at `uri`.

    A local one is absolute: delta-rs and Python read '~' and a relative 'x:y' differently.

    Raises:
        CatalogError: see `local_path`.
    """
    local = local_path(uri)
    return f"{str(uri).rstrip('/')}/{name}" if local is None else str(local.absolute() / name)


def local_path(uri: Where) -> Path | None:
    """Return the folder of a local URI ('~' is the home folder), or None for an object store.

    Raises:
        CatalogError: an empty URI, an unknown scheme, a store without a bucket, a password, or a
            place whose letters delta-rs reads as another one.
    """
    text = str(uri)
    scheme, colon, rest = text.partition(":")
    if not colon or (scheme not in (*STORES, "file") and not rest.startswith("//")):
        if not text.strip():
            raise CatalogError("the catalog's URI is empty", remedy=_GIVE)
        return _folder(os.path.expanduser(text))
    if holds_password(text):
        raise CatalogError(
            f"the catalog's URI {text} holds a password, and messages and rows would tell it",
            remedy="Leave it out: credentials come from the environment, or --storage-option",
        )
    if rest.startswith("//") and scheme in STORES and urlsplit(text).netloc:
        _check_letters(text, "?#")
        return None
    if rest.startswith("///") and scheme == "file":
        return _folder(unquote(urlsplit(text).path, errors="surrogateescape"))
    raise CatalogError(f"{text!r} names no place for a catalog", remedy=_GIVE)


def _folder(path: str) -> Path:
    _check_letters(os.path.abspath(path), "\\" if os.sep == "/" else "")
    return Path(path)


def _check_letters(place: str, odd: str) -> None:
    """Refuse a place that delta-rs takes for another one (measured with 1.6.6): `a%20b` is `a b`.

    Raises:
        CatalogError: naming the letters.
    """
    found = re.search(rf"[\x00-\x1f\x7f\ud800-\udfff{re.escape(odd)}]|%[0-9A-Fa-f]{{2}}", place)
    if found:
        raise CatalogError(
            f"the catalog's place {place!r} holds {found[0]!r}, which tables read as another place",
            remedy="Choose one without: spaces and letters of any language work; backslashes, % and"
            " two digits, control characters, and in a store ? and #, do not",
        )


def check_options(uri: Where) -> None:
    """Refuse options under which two writers can both win one version.

    Raises:
        CatalogError: an allow-unsafe-rename option, given or in the environment.
    """
    given = {str(key).lower(): str(value) for key, value in (options_of(uri) or {}).items()}
    if local_path(uri) is None:
        given |= {k.lower(): v for k, v in os.environ.items() if k.upper().startswith("AWS_")}
    for key, value in given.items():
        if key.endswith("allow_unsafe_rename") and value.lower() not in ("", "0", "false", "no"):
            raise CatalogError(
                f"storage option {key.upper()}={value} lets two writers overwrite each other",
                remedy="Remove it: S3 and compatible stores offer conditional puts",
            )


def what_to_check(uri: Where) -> str:
    """Return what a person should check when the place at `uri` does not answer as it should."""
    if local_path(uri) is not None:
        return "Check the path, its permissions and the storage options"
    return (
        "Check the URI and the credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION"
        " (or the store's own) in the environment or as --storage-option KEY=VALUE"
    )


_GIVE = f"Give a folder, file:///FOLDER, or {', '.join(f'{s}://' for s in STORES)} and a bucket"
