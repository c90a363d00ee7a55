"""The entry of `portcullis` and `python -m sidecar`: the command line, and a short way to `serve`.

How soon a gate is ready after a crash or a rollout is seconds of its clients, so the usual ways to write
`serve` load neither the command line's parser nor the system's certificate authorities. Each
takes about a tenth of a second (`python -X importtime`). Everything else, `serve --help` included, is `cli`'s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def main() -> None:
    """Run what the arguments say; exits."""
    match sys.argv[1:]:
        case ["serve"]:
            sys.exit(_serve(None))
        case ["serve", "--config", document] if document and not document.startswith("-"):
            sys.exit(_serve(Path(document)))
        case _:
            from sidecar.cli import main as command_line  # noqa: PLC0415 - only when asked for: see above

            command_line()


def _serve(document: Path | None) -> int:
    with _no_authorities():
        from sidecar.serve import serve  # noqa: PLC0415 - only when asked for: see above

    return serve(document, os.environ)


@contextmanager
def _no_authorities() -> Iterator[None]:
    """Inside, TLS contexts trust nobody. aiohttp makes two for its client, which the gate does not have, when
    it is loaded, and each reads all of the system's authorities. The store's are made later."""
    before = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
    try:
        yield
    finally:
        for name, value in zip(("SSL_CERT_FILE", "SSL_CERT_DIR"), before, strict=True):
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


if __name__ == "__main__":
    main()
