"""What the configuration says about listening: where each plane is, and the files of its TLS.

The values are the section `listen` with its paths placed. Nothing is opened here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.config_files import Folder
from sidecar.document.notations import MAX_SOCKET_PATH, Endpoint, TcpEndpoint
from sidecar.document.schema import AdminTlsSection, ListenSection, PublicTlsSection
from sidecar.document.walk import Problem, shown


@dataclass(frozen=True, slots=True)
class AdminTls:
    """PEM files of the admin plane's TLS. With `client_ca` clients have to show a certificate it signed."""

    cert: Path
    key: Path
    client_ca: Path | None


@dataclass(frozen=True, slots=True)
class PublicTls:
    """PEM files of the public port's TLS."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the planes listen, and the bounds on the check plane's connections."""

    check: tuple[Endpoint, ...]
    admin: Endpoint
    admin_tls: AdminTls | None
    health: Endpoint | None
    public: Endpoint | None
    public_tls: PublicTls | None
    idle_s: float
    max_connections: int
    grace_s: float


def listen_of(section: ListenSection, folder: Folder, problems: list[Problem]) -> Listen:
    """The section with its paths; what is wrong with them is appended to `problems`."""
    health, public = section.health, section.public
    return Listen(
        check=tuple(
            _placed(endpoint, folder, f"listen.check[{at}]", problems)
            for at, endpoint in enumerate(section.check)
        ),
        admin=_placed(section.admin, folder, "listen.admin", problems),
        admin_tls=_admin_tls(section.admin_tls, folder),
        health=None if health is None else _placed(health, folder, "listen.health", problems),
        public=None if public is None else _placed(public, folder, "listen.public", problems),
        public_tls=_public_tls(section.public_tls, folder),
        idle_s=section.idle_s,
        max_connections=section.max_connections,
        grace_s=section.grace_s,
    )


def _placed(endpoint: Endpoint, folder: Folder, path: str, problems: list[Problem]) -> Endpoint:
    if isinstance(endpoint, TcpEndpoint):
        return endpoint
    socket = folder.path / endpoint.path
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        message = (
            f"{shown(str(socket))}: longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have"
        )
        problems.append(Problem(path, message))
    return replace(endpoint, path=socket)


def _admin_tls(section: AdminTlsSection, folder: Folder) -> AdminTls | None:
    if section.cert is None or section.key is None:
        return None
    authorities = section.client_ca
    folder.watched += [folder.path / section.cert, folder.path / section.key]
    return AdminTls(
        cert=folder.existing(section.cert, "listen.admin_tls.cert"),
        key=folder.existing(section.key, "listen.admin_tls.key"),
        client_ca=None if authorities is None else folder.existing(authorities, "listen.admin_tls.client_ca"),
    )


def _public_tls(section: PublicTlsSection, folder: Folder) -> PublicTls | None:
    if section.cert is None or section.key is None:
        return None
    folder.watched += [folder.path / section.cert, folder.path / section.key]
    return PublicTls(
        cert=folder.existing(section.cert, "listen.public_tls.cert"),
        key=folder.existing(section.key, "listen.public_tls.key"),
    )
