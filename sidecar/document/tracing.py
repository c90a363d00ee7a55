"""The section `tracing`: where spans go, and how many are made.

What a span holds is not said here.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta

from sidecar.document.notations import Notation, text_of
from sidecar.document.section import Section, written
from sidecar.document.yaml_text import Tree

_MOST: Final = 512
_REMEDY: Final = 'expected the collector\'s URL with its path, such as "http://127.0.0.1:4318/v1/traces"'


def collector_url(value: Tree) -> str:
    """The URL that takes OTLP over HTTP. Spans are no secrets: http is for the operator to judge."""
    text = text_of(value, _REMEDY)
    if len(text) > _MOST or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{_REMEDY}: at most {_MOST} ASCII characters")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(_REMEDY) from None  # from None: urlsplit quotes what may be a password
    if "@" in url.netloc:
        raise ValueError(
            "user and password have no place here: give the header in OTEL_EXPORTER_OTLP_HEADERS"
        )
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0 or len(url.path) < 2:
        raise ValueError(_REMEDY)
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ValueError("a query or a fragment has no meaning here: end the URL with its path")
    return text


_COLLECTOR = written(Notation(collector_url, "a URL", secret=True))


class TracingSection(Section, frozen=True):
    otlp: Annotated[str, _COLLECTOR] | None = None
    sample: Annotated[float, Meta(ge=0, le=1)] = 0.01
