"""nginx `auth_request` to the gate against `auth_request` to an nginx that says `return 204`.

One nginx, one worker, alone on its core; both of its servers have the same configuration (the headers of
`k8s/fronts/nginx.conf`, kept connections) and differ only in whom they ask. Who is asked runs on the other core, and so
does the load generator: asking costs less than the nginx in front, which stays the limit, as it is in production.

The application is an empty picture from memory: any real one would make the difference smaller.
"""

from __future__ import annotations

from bench.cast import GENEROUS_MS, TWO_LIMITS, floor, gate, nginx, valkey
from bench.load import Heads, Target, pressing
from bench.processes import cores
from bench.rounds import Effort, alternate
from bench.rows import Findings, Goal
from tests.servers import free_port

GOAL = Goal(0.95)

_SERVER = """
    upstream asked_{port} {{ server 127.0.0.1:{asked}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        access_log off;
        auth_request /_gate;
        auth_request_set $gate_ratelimit $upstream_http_ratelimit;
        auth_request_set $gate_policy $upstream_http_ratelimit_policy;
        add_header RateLimit $gate_ratelimit always;
        add_header RateLimit-Policy $gate_policy always;
        location / {{ empty_gif; }}
        location = /_gate {{
            internal;
            proxy_pass http://asked_{port}/auth/nginx;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-URI $request_uri;
            proxy_set_header X-Original-URL "";
            proxy_set_header X-Original-Length $http_content_length;
            proxy_set_header X-Original-TLS $ssl_protocol;
            proxy_set_header X-Forwarded-Host $host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-For "";
            proxy_set_header Forwarded "";
            proxy_set_header X-Cost "";
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
"""


def measure(effort: Effort) -> Findings:
    found = Findings()
    ask_gate, ask_floor = free_port(), free_port()
    with (
        valkey() as store,
        floor() as least,
        gate(TWO_LIMITS, store=store, deadline_ms=GENEROUS_MS) as running,
        nginx(
            _SERVER.format(port=ask_gate, asked=running.check_port)
            + _SERVER.format(port=ask_floor, asked=least.port),
            port=ask_gate,
            core=cores().asking,
        ) as front,
    ):
        for novel in (False, True):
            heads = Heads(
                "/a?n={n}" if novel else "/a",
                (("User-Agent", "bench/{n}" if novel else "bench"), ("Accept", "*/*")),
            )
            through = {
                port: pressing(Target(port, front.pids), heads, effort.seconds, core=cores().asked)
                for port in (ask_gate, ask_floor)
            }
            taken = alternate(through[ask_floor], {"gate": through[ask_gate]}, effort)
            kind = "heads never repeat" if novel else "heads repeat"
            title = f"auth_request to the gate, against to `return 204`, {kind}"
            found.rows.append(taken.row(title, "gate", GOAL, "CPU is the nginx's in front"))
    return found
