"""Real proxies for the tests: nginx, Envoy and Caddy, with the very files that operators get.

A test exchanges addresses in a shipped file (`replaced`) and nothing else. What the proxies are made to
prove is in the tests of the fronts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Answer, Headers, Server, accepts, ask, executable, short_directory


@dataclass(frozen=True)
class Proxy:
    server: Server
    port: int

    def ask(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Answer:
        return ask(self.port, target, method=method, headers=headers, body=body)


@contextmanager
def nginx(conf: Path | str, replace: Mapping[str, str], *, port: int) -> Iterator[Proxy]:
    """nginx with a shipped file (or a text), ready when it listens on `port`.

    Around the file stands only what lets it run here: no daemon, its files in a directory of its
    own, and workers that may open this user's unix sockets.
    """
    with short_directory() as directory:
        text = replaced(conf, replace)
        own = "".join(f" {name}_temp_path t-{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
        own += " client_body_temp_path t-body; access_log access.log;"
        text, found = re.subn(r"(?m)^(\s*http\s*\{)", rf"\1{own}", text, count=1)
        assert found, "the nginx configuration has no http block"
        document = directory / "nginx.conf"
        document.write_text(text)
        main = "daemon off; "
        for directive, value in (("pid", "nginx.pid"), ("user", "root" if os.getuid() == 0 else "")):
            if value and not re.search(rf"(?m)^\s*{directive}\s", text):
                main += f"{directive} {value}; "

        command = (
            executable("nginx"),
            "-e",
            "stderr",
            "-p",
            f"{directory}/",
            "-c",
            str(document),
            "-g",
            main,
        )
        with Server("nginx", command, directory=directory, ready=lambda: accepts(port)) as server:
            yield Proxy(server, port)


@contextmanager
def envoy(conf: Path | str, replace: Mapping[str, str], *, port: int) -> Iterator[Proxy]:
    """Envoy with a shipped file (or a text), ready when it listens on `port`."""
    with short_directory() as directory:
        document = directory / "envoy.yaml"
        document.write_text(replaced(conf, replace))

        how = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "--drain-time-s", "1")
        command = (executable("envoy"), "-c", str(document), *how)
        with Server("envoy", command, directory=directory, ready=lambda: accepts(port)) as server:
            yield Proxy(server, port)


@contextmanager
def caddy(conf: Path | str, replace: Mapping[str, str], *, port: int) -> Iterator[Proxy]:
    """Caddy with a shipped file (or a text), ready when it listens on `port`."""
    with short_directory() as directory:
        document = directory / "Caddyfile"
        document.write_text(replaced(conf, replace))
        env = os.environ | {
            "HOME": str(directory),
            "XDG_CONFIG_HOME": str(directory),
            "XDG_DATA_HOME": str(directory),
            "CADDY_ADMIN": f"unix/{directory}/admin",
        }

        command = (executable("caddy"), "run", "--config", str(document), "--adapter", "caddyfile")
        with Server("caddy", command, directory=directory, ready=lambda: accepts(port), env=env) as server:
            yield Proxy(server, port)


def replaced(conf: Path | str, replace: Mapping[str, str]) -> str:
    """A shipped configuration with its addresses exchanged for this test's, in one pass.

    Raises AssertionError for a text that is not there: the file has changed, and the test has not.
    """
    text = conf.read_text() if isinstance(conf, Path) else conf
    for old in replace:
        assert old in text, f"{conf if isinstance(conf, Path) else 'the configuration'} has no {old!r}"
    if not replace:
        return text
    longest_first = sorted(replace, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: replace[found[0]], text)
