"""Certificates for the tests, made by openssl: an authority, a server, a client, and a stranger.

Valid for two days on 127.0.0.1 and localhost; strict enough for Python's own strict checks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.servers import executable

EXTENSIONS = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost
"""


class Certificates(NamedTuple):
    """PEM files. `stranger_ca` is an authority that signed none of the others."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    stranger_ca: Path


def make_certificates(directory: Path) -> Certificates:
    """Made anew in `directory`; raises CalledProcessError with openssl's own words."""
    (directory / "extensions.cnf").write_text(EXTENSIONS)
    ca = _certificate(directory, "ca", signed_by=None)
    stranger = _certificate(directory, "stranger", signed_by=None)
    server = _certificate(directory, "server", signed_by="ca")
    client = _certificate(directory, "client", signed_by="ca")
    return Certificates(
        ca, server, server.with_suffix(".key"), client, client.with_suffix(".key"), stranger_ca=stranger
    )


def _certificate(directory: Path, name: str, *, signed_by: str | None) -> Path:
    """`name.pem` with `name.key`, signed by another or by itself."""
    command = [
        executable("openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    command += ["-nodes", "-days", "2", "-subj", f"/CN=portcullis test {name}", "-config", "extensions.cnf"]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    if signed_by is None:
        command += ["-extensions", "authority"]
    else:
        command += ["-extensions", "leaf", "-CA", f"{signed_by}.pem", "-CAkey", f"{signed_by}.key"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory / f"{name}.pem"
