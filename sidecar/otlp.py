"""Spans to a collector: OTLP over HTTP, by OpenTelemetry's own exporter.

The exporter brings retries, compression, headers, certificates and proxies, configured by OpenTelemetry's environment
variables; `tracing` brings the queue, the thread and the bounds, which must not be larger than a gate can bear.

Only `tracing.sender_to` imports this module, and only where spans are wanted: it needs the extra `tracing`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from sidecar.tracing import Span, attributes_of

TIMEOUT_S: Final = 5.0
"""For one batch, retries included: spans that wait longer are worth less than memory."""
NAME: Final = "portcullis.check"
SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class Otlp:
    """A collector's URL, spoken to. `instance` names this process among those of the service."""

    def __init__(self, url: str, *, instance: str, version: str) -> None:
        # Its words on every attempt would drown the log in an outage; `Spans.sweep` says it once a minute.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        own = {
            "service.name": "portcullis",
            "service.version": version,
            "service.instance.id": instance,
            "host.name": os.uname().nodename,
        }
        # The detector reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES: what the operator says wins.
        self._resource = Resource(own).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("portcullis", version)
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S)

    def send(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them."""
        return self._exporter.export([self._readable(span) for span in spans]) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # theirs says no types

    def _readable(self, span: Span) -> ReadableSpan:
        parent = None
        if span.parent_id:
            parent = SpanContext(span.trace_id, span.parent_id, is_remote=True, trace_flags=SAMPLED)
        return ReadableSpan(
            name=NAME,
            context=SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=SAMPLED),
            parent=parent,
            resource=self._resource,
            attributes=attributes_of(span.decision),
            kind=SpanKind.SERVER,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )
