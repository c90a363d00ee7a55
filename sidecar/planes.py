"""The planes beside the check plane: opened, secured, and closed with the stack that they were opened in.

What each of them answers is not known here.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from aiohttp import web

from sidecar.admin.app import Serving, start
from sidecar.admin.tls import Files, TlsUnusable, tls_context
from sidecar.document.notations import Endpoint

GRACE_S = 1.0


class PlaneUnusable(Exception):
    """A plane cannot be opened, or not show its certificate; the text names the key and the reason."""


class Planes:
    """All that were opened, in one process."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._secured: list[tuple[Serving, Files, str]] = []

    async def open(
        self, key: str, app: web.Application, endpoint: Endpoint, files: Files | None = None
    ) -> Endpoint:
        """Serve `app` as the configuration's `key`, over TLS where there are files for it; where it really listens.

        Raises PlaneUnusable.
        """
        section = f"{key}_tls"
        try:
            tls = None if files is None else tls_context(files, section)
            serving = await start(app, endpoint, grace_s=GRACE_S, tls=tls)
        except TlsUnusable as exc:
            raise PlaneUnusable(str(exc)) from exc
        except OSError as exc:
            raise PlaneUnusable(f"{key}: {exc.strerror or exc}") from exc
        self._stack.push_async_callback(serving.shutdown)
        if files is not None:
            self._secured.append((serving, files, section))
        return serving.endpoint

    def renew(self) -> None:
        """Show the certificates, and trust the authorities, that lie in the files now.

        Raises PlaneUnusable, and then every plane goes on with those of before.
        """
        try:
            renewed = [(serving, tls_context(files, section)) for serving, files, section in self._secured]
        except TlsUnusable as exc:
            raise PlaneUnusable(str(exc)) from exc
        for serving, tls in renewed:
            serving.secure(tls)
