# The gate as an image: no root, no shell, nothing written outside /var/lib/portcullis and /run/portcullis.
#
#   docker build -t portcullis:0.1.0 .
#   docker run --read-only --tmpfs /run/portcullis:uid=65532 --tmpfs /var/lib/portcullis:uid=65532 \
#     -p 127.0.0.1:8080:8080 portcullis:0.1.0
#
# A mirror, or a newer Python: --build-arg PYTHON=…; the tag says what it is, the digest that it is this one.
ARG PYTHON=docker.io/library/python:3.13.14-slim-bookworm@sha256:9d7f287598e1a5a978c015ee176d8216435aaf335ed69ac3c38dd1bbb10e8d64

# --- what is installed, and the wheel ---
FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# First what seldom changes: a change of the code alone builds only what follows it. The environment has no pip of its
# own: nothing can be installed into a running gate.
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv --without-pip /opt/portcullis
RUN python3 -m venv /build/tools
RUN /build/tools/bin/pip --python /opt/portcullis/bin/python install --require-hashes --only-binary :all: -r requirements.lock
RUN /build/tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY lua ./lua
COPY sidecar ./sidecar
RUN /build/tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /build/dist .
RUN /build/tools/bin/pip --python /opt/portcullis/bin/python install --no-deps --no-index /build/dist/*.whl

# Directories that the gate writes to; owned below, for the last stage runs nothing.
RUN mkdir -p /build/empty/portcullis

# --- what runs ---
FROM ${PYTHON}
LABEL org.opencontainers.image.title="portcullis" \
      org.opencontainers.image.description="A gate for HTTP traffic: rate limits shared by all replicas" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /opt/portcullis /opt/portcullis
COPY --from=build --chown=65532:65532 /build/empty /var/lib
COPY --from=build --chown=65532:65532 /build/empty /run
COPY k8s/image/portcullis.yaml /etc/portcullis/portcullis.yaml

# HOME, since the user has no entry in /etc/passwd. A pyc file cannot be written, and need not: pip has.
ENV PATH=/opt/portcullis/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/portcullis \
    PORTCULLIS_CONFIG=/etc/portcullis/portcullis.yaml \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number, so that Kubernetes can see that it is not root's (runAsNonRoot).
USER 65532:65532
WORKDIR /var/lib/portcullis
EXPOSE 8080 8082

# /livez, not /readyz: a gate whose store is away decides by its outage policy, and a restart would not help it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8082, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["portcullis"]
CMD ["serve"]
