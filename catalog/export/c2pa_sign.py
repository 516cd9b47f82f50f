"""C2PA: a signed manifest in a PNG that says it was created by a trained model.

Needs the extra `c2pa`. Certificate chain and key come from PEM files named on the command line and
stay in memory. No time stamp authority is asked: signing uses no network.
"""

import io
import json
from pathlib import Path
from typing import Any

from factory import __version__
from factory.errors import CatalogError
from factory.real.drawn import SOURCE_TYPE


class Signer:
    """Signs PNG bytes with one certificate.

    Raises:
        CatalogError: the extra is missing, or the files hold no usable certificate and key. What
            the key file holds is never shown.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._c2pa = _library()
        chain, secret = _read(certificate), _read(key)
        try:
            algorithm = _algorithm(secret)
            info = self._c2pa.C2paSignerInfo(algorithm, chain.encode(), secret.encode(), None)
            self._signer = self._c2pa.Signer.from_info(info)
        except (self._c2pa.C2paError, ValueError) as error:
            raise CatalogError(
                f"certificate {str(certificate)!r} and key {str(key)!r} cannot sign",
                remedy="Give PEM files: the chain, own certificate first, and its unencrypted key",
            ) from error

    def signed(self, png: bytes, *, image_id: str, release: str) -> bytes:
        """Return `png` with a manifest; pixels and other chunks stay.

        Raises:
            CatalogError: the certificate is none that C2PA takes.
        """
        out = io.BytesIO()
        try:
            with self._c2pa.Builder(json.dumps(_manifest(image_id, release))) as builder:
                builder.sign(self._signer, "image/png", io.BytesIO(png), out)
        except self._c2pa.C2paError as error:
            raise CatalogError(
                f"C2PA refuses to sign image {image_id!r} ({error})",
                remedy="Use a certificate for signing claims (see the C2PA specification, trust)",
            ) from error
        return out.getvalue()


def manifest_of(png: bytes) -> dict[str, Any] | None:
    """Return the active manifest with its validation state, None where there is none.

    Raises:
        CatalogError: the extra is missing.
    """
    c2pa = _library()
    try:
        with c2pa.Reader("image/png", io.BytesIO(png)) as reader:
            told = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    active = told["manifests"][told["active_manifest"]]
    return {**active, "validation_state": told.get("validation_state")}


def _manifest(image_id: str, release: str) -> dict[str, Any]:
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
    return {
        "claim_generator_info": [{"name": "medimage-factory", "version": __version__}],
        "title": f"Synthetic image {image_id} of {release}",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise CatalogError(
            "--mark c2pa needs the library c2pa-python",
            remedy="Install it: pip install 'medimage-factory[c2pa]'",
        ) from error
    return c2pa


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise CatalogError(
            f"{str(path)!r} cannot be read ({reason})", remedy="Give a PEM file"
        ) from error


def _algorithm(pem: str) -> str:
    """Return C2PA's name of the signature that a private key makes."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except TypeError as error:  # encrypted
        raise ValueError(str(error)) from error
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "es256", 384: "es384", 521: "es512"}[key.key_size]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError(type(key).__name__)
