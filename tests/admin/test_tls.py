"""TLS and mutual TLS on the admin plane, over real sockets with real certificates."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path

import aiohttp
import pytest
import uvloop

from sidecar.admin.app import start
from sidecar.admin.tls import TlsUnusable, tls_context
from sidecar.config import AdminTls
from tests.admin.plane import AUTHORIZED, LOOPBACK, Gate
from tests.certificates import Certificates
from tests.servers import executable

Run = Callable[[Coroutine[None, None, None]], None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


def files_of(certificates: Certificates, client_ca: Path | None = None) -> AdminTls:
    return AdminTls(certificates.server_cert, certificates.server_key, client_ca)


def trusting(ca: Path, certificates: Certificates | None = None) -> ssl.SSLContext:
    """A client's side; with `certificates` it shows its own."""
    context = ssl.create_default_context(cafile=ca)
    if certificates is not None:
        context.load_cert_chain(certificates.client_cert, certificates.client_key)
    return context


async def alive(files: AdminTls, client: ssl.SSLContext, *, scheme: str = "https") -> int:
    """The status of `/livez` and of one operation, asked for over one plane."""
    serving = await start(Gate().admin(), LOOPBACK, grace_s=1.0, tls=tls_context(files))
    try:
        async with aiohttp.ClientSession() as session:
            base = f"{scheme}://{serving.endpoint}"
            async with session.get(f"{base}/v1/openapi.json", ssl=client, headers=AUTHORIZED) as response:
                await response.read()
                return response.status
    finally:
        await serving.shutdown()


@LOOPS
def test_it_serves_over_tls(certificates: Certificates, run: Run) -> None:
    async def scenario() -> None:
        assert await alive(files_of(certificates), trusting(certificates.ca)) == 200

    run(scenario())


@LOOPS
def test_it_is_itself_to_who_trusts_its_authority_alone(certificates: Certificates, run: Run) -> None:
    async def scenario() -> None:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await alive(files_of(certificates), trusting(certificates.stranger_ca))

    run(scenario())


def test_it_does_not_speak_without_tls(certificates: Certificates) -> None:
    async def scenario() -> None:
        with pytest.raises(aiohttp.ClientError):
            await alive(files_of(certificates), trusting(certificates.ca), scheme="http")

    asyncio.run(scenario())


def test_it_does_not_speak_what_is_outdated(certificates: Certificates) -> None:
    assert tls_context(files_of(certificates)).minimum_version is ssl.TLSVersion.TLSv1_2


@LOOPS
def test_with_an_authority_it_knows_its_clients(certificates: Certificates, run: Run) -> None:
    files = files_of(certificates, certificates.ca)

    async def scenario() -> None:
        assert await alive(files, trusting(certificates.ca, certificates)) == 200
        with pytest.raises((aiohttp.ClientError, OSError)):
            await alive(files, trusting(certificates.ca))

    run(scenario())


@LOOPS
def test_a_client_of_another_authority_is_a_stranger(certificates: Certificates, run: Run) -> None:
    files = files_of(certificates, certificates.stranger_ca)

    async def scenario() -> None:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await alive(files, trusting(certificates.ca, certificates))

    run(scenario())


def test_a_certificate_is_no_token(certificates: Certificates) -> None:
    async def scenario() -> None:
        files = files_of(certificates, certificates.ca)
        serving = await start(Gate().admin(), LOOPBACK, grace_s=1.0, tls=tls_context(files))
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(
                    f"https://{serving.endpoint}/v1/openapi.json",
                    ssl=trusting(certificates.ca, certificates),
                ) as response,
            ):
                assert response.status == 401
        finally:
            await serving.shutdown()

    asyncio.run(scenario())


def test_what_cannot_be_used_is_named_with_its_key_and_file(
    certificates: Certificates, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense\n")
    gone = tmp_path / "gone.pem"
    locked = tmp_path / "locked.key"
    command = [executable("openssl"), "ec", "-in", str(certificates.server_key), "-aes256"]
    subprocess.run([*command, "-passout", "pass:x", "-out", str(locked)], check=True, capture_output=True)
    cert, key = certificates.server_cert, certificates.server_key

    cases = [
        (AdminTls(gone, key, None), "cert", gone, "No such file"),
        (AdminTls(nonsense, key, None), "cert", nonsense, "no certificate"),
        (AdminTls(cert, gone, None), "key", gone, "No such file"),
        (AdminTls(cert, nonsense, None), "key", nonsense, "no private key"),
        (AdminTls(cert, cert, None), "key", cert, "no private key"),
        (AdminTls(cert, certificates.client_key, None), "key", certificates.client_key, "is not the private"),
        (AdminTls(cert, locked, None), "key", locked, "passphrase"),
        (AdminTls(cert, key, gone), "client_ca", gone, "No such file"),
        (AdminTls(cert, key, nonsense), "client_ca", nonsense, "no certificate"),
        (AdminTls(cert, key, key), "client_ca", key, "no certificate"),
    ]
    for files, name, file, says in cases:
        with pytest.raises(TlsUnusable) as refused:
            tls_context(files)
        assert str(refused.value).startswith(f"listen.admin_tls.{name}: {file}: ")
        assert says in str(refused.value)
