"""A key that signs is read from what an operator has, or the operator is told how to make one."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.tokens import SigningKey
from tests.issuers import PrivateKey, ec_key, ed25519_key, pem_of, public_pem_of, rsa_key
from tests.servers import executable

LOCKED = BestAvailableEncryption(b"passphrase")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_it_reads_a_key_in_each_form(form: PrivateFormat) -> None:
    key = SigningKey.from_pem(pem_of(ec_key(), form))

    assert (key.algorithm, key) == ("ES256", SigningKey.from_pem(pem_of(ec_key())))


def test_a_key_goes_to_other_processes_and_shows_nothing() -> None:
    for key in (SigningKey.from_pem(pem_of(ed25519_key())), SigningKey.from_pem(pem_of(ec_key()))):
        assert pickle.loads(pickle.dumps(key)) == key
        assert hash(key)
        assert "PRIVATE" not in repr(key)
        assert "d" not in key.public_jwk


@pytest.mark.parametrize(
    ("pem", "remedy"),
    [
        (b"", "openssl genpkey -algorithm ed25519"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "openssl genpkey"),
        (public_pem_of(ed25519_key()), "openssl genpkey"),
        (pem_of(rsa_key()), "neither an Ed25519 nor a P-256 key"),
        (pem_of(ec_key("one", "P-384")), "neither an Ed25519 nor a P-256 key"),
        (pem_of(ec_key("one", "secp256k1")), "neither an Ed25519 nor a P-256 key"),
        (ec_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, LOCKED), "openssl pkey -in"),
        (ec_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, LOCKED), "openssl pkey -in"),
    ],
)
def test_it_says_how_to_make_a_key_that_it_can_use(pem: bytes, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        SigningKey.from_pem(pem)


@given(st.binary(max_size=100), st.integers(0, 200), st.sampled_from([ed25519_key(), ec_key()]))
def test_it_reads_a_key_or_refuses_the_file(noise: bytes, at: int, good: PrivateKey) -> None:
    pem = pem_of(good)
    for damaged in (noise, pem[:at] + noise + pem[at:], pem[:at] + noise + pem[at + len(noise) :]):
        try:
            read = SigningKey.from_pem(damaged)
        except ValueError as exc:
            assert "openssl" in str(exc)
        else:
            assert read.algorithm in {"EdDSA", "ES256"}


@pytest.mark.parametrize(
    ("command", "algorithm"),
    [
        ("genpkey -algorithm ed25519", "EdDSA"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", "ES256"),
        ("ecparam -name prime256v1 -genkey", "ES256"),  # its parameters stand before it
    ],
)
def test_it_reads_what_openssl_makes(command: str, algorithm: str, tmp_path: Path) -> None:
    pem = tmp_path / "sign.pem"
    subprocess.run([executable("openssl"), *command.split(), "-out", pem], check=True, capture_output=True)

    assert SigningKey.from_pem(pem.read_bytes()).algorithm == algorithm
