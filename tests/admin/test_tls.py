"""TLS and mutual TLS, over real sockets with real certificates; on the admin plane where one is needed."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import uvloop

from sidecar.admin.app import start
from sidecar.admin.tls import CIPHERS, TlsUnusable, tls_context
from sidecar.config import AdminTls, PublicTls
from sidecar.document.notations import Endpoint, TcpEndpoint
from sidecar.planes import Planes, PlaneUnusable
from tests.admin.plane import AUTHORIZED, LOOPBACK, Gate
from tests.certificates import Certificates
from tests.servers import executable

Run = Callable[[Coroutine[None, None, None]], None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


ADMIN = "listen.admin_tls"
PUBLIC = "listen.public_tls"


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
    serving = await start(Gate().admin(), LOOPBACK, grace_s=1.0, tls=tls_context(files, ADMIN))
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


# --- the profile --------------------------------------------------------------

OUTSIDE = (
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-ARIA256-GCM-SHA384",
)
"""Suites that OpenSSL has for the certificate's key, and the profile has not."""


def speaking(version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    """A client that speaks one version, and would take any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's side of a handshake, in memory. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server)
    pending = [theirs, server.wrap_bio(to_server, to_client, server_side=True)]
    while pending:
        for side in tuple(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    return theirs


def agreed(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str | None, str, str | None]:
    """Version, cipher suite and protocol that the two agree on. Raises SSLError."""
    side = shaken(server, client)
    cipher = side.cipher()
    assert cipher is not None
    return side.version(), cipher[0], side.selected_alpn_protocol()


@pytest.fixture
def profile(certificates: Certificates) -> ssl.SSLContext:
    return tls_context(PublicTls(certificates.server_cert, certificates.server_key), PUBLIC)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_it_does_not_speak_what_is_outdated(profile: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError, match="unsupported protocol"):
        agreed(profile, speaking(version))


@pytest.mark.parametrize("cipher", [cipher for cipher in CIPHERS if "ECDSA" in cipher])
def test_it_speaks_each_suite_of_the_profile(profile: ssl.SSLContext, cipher: str) -> None:
    client = speaking(ssl.TLSVersion.TLSv1_2, cipher)

    assert agreed(profile, client) == ("TLSv1.2", cipher, "http/1.1")


@pytest.mark.parametrize("cipher", OUTSIDE)
def test_it_speaks_no_suite_beyond_the_profile(profile: ssl.SSLContext, cipher: str) -> None:
    with pytest.raises(ssl.SSLError, match="no shared cipher"):
        agreed(profile, speaking(ssl.TLSVersion.TLSv1_2, cipher))


def test_it_speaks_1_3_in_the_profiles_suites(profile: ssl.SSLContext) -> None:
    version, cipher, protocol = agreed(profile, speaking(ssl.TLSVersion.TLSv1_3))

    assert (version, protocol) == ("TLSv1.3", "http/1.1")
    assert {each["name"] for each in profile.get_ciphers()} - set(CIPHERS) == {
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    }
    assert cipher.startswith("TLS_")


@pytest.mark.parametrize("preferred", [CIPHERS[0], CIPHERS[2], CIPHERS[4]])
def test_it_takes_the_clients_order(profile: ssl.SSLContext, preferred: str) -> None:
    others = ":".join(cipher for cipher in CIPHERS if cipher != preferred)
    client = speaking(ssl.TLSVersion.TLSv1_2, f"{preferred}:{others}")

    assert agreed(profile, client)[1] == preferred


def test_it_is_the_same_profile_on_the_admin_plane(certificates: Certificates) -> None:
    admin = tls_context(files_of(certificates), ADMIN)

    assert {each["name"] for each in admin.get_ciphers()} >= set(CIPHERS)
    with pytest.raises(ssl.SSLError):
        agreed(admin, speaking(ssl.TLSVersion.TLSv1_2, OUTSIDE[0]))


# --- renewal ------------------------------------------------------------------


async def shown(endpoint: Endpoint) -> bytes:
    """The certificate that the next client sees."""
    assert isinstance(endpoint, TcpEndpoint)
    _, writer = await asyncio.open_connection(
        endpoint.host, endpoint.port, ssl=speaking(ssl.TLSVersion.TLSv1_3)
    )
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> PublicTls:
    """The server's pair, where it can be replaced."""
    files = PublicTls(tmp_path / "tls.crt", tmp_path / "tls.key")
    shutil.copy(certificates.server_cert, files.cert)
    shutil.copy(certificates.server_key, files.key)
    return files


@LOOPS
def test_it_shows_the_certificate_that_lies_there_now(
    certificates: Certificates, files: PublicTls, run: Run
) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            planes = Planes(stack)
            public = await planes.open("listen.public", Gate().health(), LOOPBACK, files)
            await planes.open("listen.health", Gate().health(), LOOPBACK)

            shutil.copy(certificates.client_cert, files.cert)
            with pytest.raises(PlaneUnusable, match=r"listen\.public_tls\.key: .* is not the private key"):
                planes.renew()
            assert await shown(public) == der(certificates.server_cert)
            shutil.copy(certificates.client_key, files.key)
            planes.renew()
            assert await shown(public) == der(certificates.client_cert)

    run(scenario())


def test_it_renews_every_certificate_or_none(certificates: Certificates, files: PublicTls) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            planes = Planes(stack)
            broken = PublicTls(files.cert.with_name("other.crt"), certificates.server_key)
            shutil.copy(certificates.server_cert, broken.cert)
            admin = await planes.open("listen.admin", Gate().admin(), LOOPBACK, files)
            public = await planes.open("listen.public", Gate().health(), LOOPBACK, broken)
            shutil.copy(certificates.client_cert, files.cert)
            shutil.copy(certificates.client_key, files.key)
            broken.cert.write_text("nonsense\n")

            with pytest.raises(PlaneUnusable, match=r"listen\.public_tls\.cert"):
                planes.renew()

            # No context that serves was touched: one that took half a pair could not serve any more.
            assert await shown(admin) == await shown(public) == der(certificates.server_cert)

    asyncio.run(scenario())


def test_it_renews_the_authorities_of_clients(
    certificates: Certificates, files: PublicTls, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
            planes = Planes(stack)
            authorities = tmp_path / "ca.pem"
            shutil.copy(certificates.stranger_ca, authorities)
            admin_files = AdminTls(files.cert, files.key, authorities)
            admin = await planes.open("listen.admin", Gate().admin(), LOOPBACK, admin_files)
            known = trusting(certificates.ca, certificates)
            with pytest.raises((aiohttp.ClientError, OSError)):
                await session.get(f"https://{admin}/livez", ssl=known)

            shutil.copy(certificates.ca, authorities)
            planes.renew()

            async with session.get(f"https://{admin}/livez", ssl=known) as response:
                assert response.status == 200

    asyncio.run(scenario())


# --- clients' certificates ----------------------------------------------------


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
        serving = await start(Gate().admin(), LOOPBACK, grace_s=1.0, tls=tls_context(files, ADMIN))
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
            tls_context(files, ADMIN)
        assert str(refused.value).startswith(f"listen.admin_tls.{name}: {file}: ")
        assert says in str(refused.value)
