"""The server's certificate: what can be wrong with its files."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path

import pytest

from mailsrv.transport.tls_context import PEM_MAX_OCTETS, TlsError, server_context

PEM = Path(__file__).resolve().parents[3] / "replay" / "play"
OTHER_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZvUfqqQmWbBsMX5g
o2Uis14+98wZCrkuH5w+iVFJYvmhRANCAAR/KUl9eVvIOG6xkxsrgbTcitcp4Vcw
VUCJJyF57VElM79oIfkg4RZpj6MDJLfRoTz2oXrk/cBD4XpdqBZ7qzp1
-----END PRIVATE KEY-----
"""
ENCRYPTED_KEY = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return Path(shutil.copy(PEM / "for-tests-only.crt.pem", tmp_path / "server.crt"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return Path(shutil.copy(PEM / "for-tests-only.key.pem", tmp_path / "server.key"))


def complaint(certificate: Path, key: Path) -> str:
    with pytest.raises(TlsError) as error:
        server_context(certificate, key)
    return str(error.value)


def test_a_good_pair_makes_a_context(certificate: Path, key: Path) -> None:
    assert isinstance(server_context(certificate, key), ssl.SSLContext)


def test_one_file_may_hold_both(certificate: Path, key: Path) -> None:
    certificate.write_text(certificate.read_text() + key.read_text())
    assert server_context(certificate, certificate)


def test_a_missing_file_is_named_with_the_reason(certificate: Path, key: Path) -> None:
    missing = certificate.with_name("missing.pem")
    assert complaint(missing, key) == f"{missing}: No such file or directory"
    assert complaint(certificate, missing) == f"{missing}: No such file or directory"
    assert complaint(certificate.parent, key) == f"{certificate.parent}: Is a directory"


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_fifo_is_refused_and_not_waited_for(certificate: Path, key: Path, which: str) -> None:
    fifo = certificate if which == "certificate" else key
    fifo.unlink()
    os.mkfifo(fifo)
    assert complaint(certificate, key) == f"{fifo}: is a FIFO; takes a file"


def test_files_that_hold_something_else_are_named(certificate: Path, key: Path) -> None:
    assert complaint(key, key) == f"{key}: holds no certificate in PEM form"
    assert complaint(certificate, certificate) == f"{certificate}: holds no private key in PEM form"


def test_a_key_of_another_certificate_is_named_with_both(certificate: Path, key: Path) -> None:
    key.write_text(OTHER_KEY)
    assert complaint(certificate, key) == (
        f"{key}: this key does not belong to the certificate in {certificate}"
    )


def test_an_encrypted_key_is_refused_and_no_password_asked_for(
    certificate: Path, key: Path
) -> None:
    for text in (ENCRYPTED_KEY, key.read_text().replace("MIG", "Proc-Type: 4,ENCRYPTED\n\nMIG")):
        key.write_text(text)
        assert "is encrypted" in complaint(certificate, key)


def test_a_damaged_certificate_and_a_damaged_key_are_told_apart(
    certificate: Path, key: Path
) -> None:
    whole = key.read_text()
    key.write_text(whole.replace("MIGH", "AAAA"))
    assert complaint(certificate, key).startswith(f"{key}: the key cannot be used")
    key.write_text(whole)
    certificate.write_text(certificate.read_text().replace("MII", "AAA"))
    assert complaint(certificate, key).startswith(f"{certificate}: the certificate cannot be read")


def test_an_endless_file_is_not_read_to_its_end(certificate: Path, key: Path) -> None:
    certificate.write_text("x" * (PEM_MAX_OCTETS + 1))
    assert "longer than" in complaint(certificate, key)
