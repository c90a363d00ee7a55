"""The servers of the suite: each starts, answers and ends, so that a failure elsewhere is not theirs."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.application import Application
from tests.certificates import Certificates
from tests.proxies import Proxy, replaced
from tests.servers import Server, ServerFailed, ask, eventually, executable, free_port
from tests.stores import StoreServer

NEVER = Retry(NoBackoff(), 0)


def test_it_empties_a_store_between_tests(any_store: StoreServer) -> None:
    with any_store.client() as client:
        assert client.dbsize() == 0
        client.set("left", "over")


def test_it_starts_valkey_9_and_redis_from_7(valkey: StoreServer, redis7: StoreServer) -> None:
    with valkey.client() as one, redis7.client() as other:
        assert one.info("server")["valkey_version"].startswith("9.")
        assert int(other.info("server")["redis_version"].split(".")[0]) >= 7


def test_it_keeps_a_store_with_its_data_over_a_restart(start_valkey: Callable[..., StoreServer]) -> None:
    store = start_valkey(appendonly="yes", appendfsync="always")
    with store.client() as client:
        client.set("kept", "yes")

    store.server.restart()

    with store.client() as client:
        assert client.get("kept") == b"yes"


def test_it_pauses_a_store(start_valkey: Callable[..., StoreServer]) -> None:
    store = start_valkey()

    with (
        store.server.paused(),
        redis.Redis(unix_socket_path=str(store.socket), socket_timeout=0.1, retry=NEVER) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()

    with store.client() as client:
        assert client.ping()


def test_it_starts_a_store_with_users(start_redis7: Callable[..., StoreServer]) -> None:
    store = start_redis7(users=["default off", "gate on >secret ~pc:* +@all"])

    with store.client(user="gate", password="secret") as client:
        assert client.set("pc:x", "1")
        with pytest.raises(redis.ResponseError, match="no permissions"):
            client.set("other", "1")


def test_it_starts_a_store_that_demands_certificates(
    start_redis7: Callable[..., StoreServer], certificates: Certificates
) -> None:
    store = start_redis7(certificates=certificates)

    with redis.Redis.from_url(
        store.tls_url,
        ssl_ca_certs=str(certificates.ca),
        ssl_certfile=str(certificates.client_cert),
        ssl_keyfile=str(certificates.client_key),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    ) as client:
        assert client.ping()


def test_it_answers_through_nginx(start_nginx: Callable[..., Proxy], backend: Application) -> None:
    port = free_port()
    conf = "events {}\nhttp { server { listen 80; location / { proxy_pass http://app; } } }"

    proxy = start_nginx(conf, {"80": f"127.0.0.1:{port}", "app": backend.address}, port=port)

    assert proxy.ask("/a%2fb?c").body == b"the application at /a%2fb?c\n"


def test_it_answers_through_envoy(start_envoy: Callable[..., Proxy], backend: Application) -> None:
    port = free_port()
    proxy = start_envoy(ENVOY, {"10000": str(port), "9000": str(backend.port)}, port=port)

    eventually(lambda: proxy.ask("/").status == 200, "Envoy reaches the application")

    assert backend.seen()[-1].header("x-forwarded-proto") == "http"


def test_it_answers_through_caddy(start_caddy: Callable[..., Proxy], backend: Application) -> None:
    port = free_port()

    proxy = start_caddy(
        "http://:80 {\n reverse_proxy app\n}", {"80": str(port), "app": backend.address}, port=port
    )

    assert proxy.ask("/", method="POST", body=b"x" * 10).body == b"x" * 10
    assert [(seen.method, seen.body_length) for seen in backend.seen()] == [("POST", 10)]


def test_it_shows_what_the_application_answers_by_itself(backend: Application) -> None:
    assert ask(backend.port, "/status/403").status == 403
    assert backend.count() == 1


def test_it_says_why_a_server_did_not_start(directory: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no luck today')")

    with pytest.raises(ServerFailed, match="no luck today"):
        Server("hapless", command, directory=directory, ready=lambda: False).start()


def test_it_says_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)

    with pytest.raises(ServerFailed, match="apt-get install nginx"):
        executable("nginx")


def test_it_refuses_to_replace_what_is_not_there() -> None:
    with pytest.raises(AssertionError, match="no 'listen 81'"):
        replaced("listen 80;", {"listen 81": "listen 5000"})


def test_it_replaces_in_one_pass() -> None:
    assert replaced("a:80 b:8080", {"80": "8080", "8080": "1"}) == "a:8080 b:1"


MANAGER = "envoy.extensions.filters.network.http_connection_manager"
ENVOY = """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/MANAGER
          stat_prefix: test
          use_remote_address: true
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: application}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: application
    load_assignment:
      cluster_name: application
      endpoints:
      - lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9000}}}}]
""".replace("MANAGER", f"{MANAGER}.v3.HttpConnectionManager")
