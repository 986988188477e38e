"""What TLS handshakes need: our certificate as a server, and what we verify as a client."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

PEM_MAX_OCTETS = 1024 * 1024
"""Of one file: a chain of a hundred certificates is far below."""
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]{1,16} )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(
    rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE
)


class TlsError(Exception):
    """A certificate or key that cannot be used: the file, and what is wrong with it."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a server's handshakes: TLS 1.2 or newer, no compression, no renegotiation.

    ``certificate`` is PEM: the server's own first, then those that lead to its root; ``key`` is
    PEM, not encrypted, and may be the same file.  Raises TlsError.
    """
    if _CERTIFICATE not in _read(certificate):
        raise TlsError(certificate, "holds no certificate in PEM form")
    key_text = _read(key)
    if _ENCRYPTED.search(key_text):
        raise TlsError(key, "the key is encrypted; a server needs one that is not")
    if not _KEY.search(key_text):
        raise TlsError(key, "holds no private key in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise _load_error(error, certificate, key) from None
    except OSError as error:
        raise TlsError(certificate, error.strerror or str(error)) from None
    return context


def client_context(*, verified: bool, authorities: Path | None = None) -> ssl.SSLContext:
    """The context of handshakes with next hops: TLS 1.2 or newer.

    Without ``verified`` any certificate will do: that keeps off who only listens (RFC 7435).
    With it, the certificate must bear the server's name and come from ``authorities``, a PEM
    file, or from those that the system trusts.  Raises TlsError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities is None:
        context.load_default_certs()
    else:
        if _CERTIFICATE not in _read(authorities):
            raise TlsError(authorities, "holds no certificate in PEM form")
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            reason = (error.reason or "damaged").lower().replace("_", " ")
            raise TlsError(authorities, f"the certificates cannot be read: {reason}") from None
    return context


def _no_password() -> str:
    """Stands where OpenSSL would ask at the terminal."""
    return ""


def _load_error(error: ssl.SSLError, certificate: Path, key: Path) -> TlsError:
    """Whose fault it is: OpenSSL names no file, but the part it was busy with."""
    reason = (error.reason or "").lower().replace("_", " ")
    if reason == "key values mismatch":
        return TlsError(key, f"this key does not belong to the certificate in {certificate}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        return TlsError(certificate, f"the certificate cannot be read: {reason or 'damaged'}")
    return TlsError(key, f"the key cannot be used: {reason or 'damaged'}")


def _read(path: Path) -> bytes:
    if path.is_fifo():
        raise TlsError(path, "is a FIFO; takes a file")  # opening it may wait for ever
    try:
        with path.open("rb") as file:
            octets = file.read(PEM_MAX_OCTETS + 1)
    except OSError as error:
        raise TlsError(path, error.strerror or "cannot be read") from None
    if len(octets) > PEM_MAX_OCTETS:
        raise TlsError(path, f"longer than the {PEM_MAX_OCTETS} octets allowed")
    return octets
