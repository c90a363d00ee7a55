"""The planes beside the check plane: opened, secured, and closed with the stack that they were opened in.

What each of them answers is not known here.
"""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack

from aiohttp import web

from sidecar.admin.app import start
from sidecar.admin.tls import Files, TlsUnusable, renew, tls_context
from sidecar.document.notations import Endpoint

GRACE_S = 1.0


class PlaneUnusable(Exception):
    """A plane cannot be opened, or not show its certificate; the text names the key and the reason."""


class Planes:
    """All that were opened, in one process."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._secured: list[tuple[ssl.SSLContext, Files, str]] = []

    async def open(
        self, key: str, app: web.Application, endpoint: Endpoint, files: Files | None = None
    ) -> Endpoint:
        """Serve `app` as the configuration's `key`, over TLS where there are files for it; where it really listens.

        Raises PlaneUnusable.
        """
        tls = None
        if files is not None:
            section = f"{key}_tls"
            try:
                tls = tls_context(files, section)
            except TlsUnusable as exc:
                raise PlaneUnusable(str(exc)) from exc
            self._secured.append((tls, files, section))
        try:
            serving = await start(app, endpoint, grace_s=GRACE_S, tls=tls)
        except OSError as exc:
            raise PlaneUnusable(f"{key}: {exc.strerror or exc}") from exc
        self._stack.push_async_callback(serving.shutdown)
        return serving.endpoint

    def renew(self) -> None:
        """Show the certificates that lie in the files now. Raises PlaneUnusable; what was shown before stays."""
        try:
            for secured in self._secured:
                renew(*secured)
        except TlsUnusable as exc:
            raise PlaneUnusable(str(exc)) from exc
