#!/usr/bin/env bash
# Build the image and run it without a Docker engine: every step of the Dockerfile by buildah with chroot isolation, then
# the gate with a read-only root, without a shell, as its user. Needs root, buildah and debootstrap (Debian: apt-get install
# buildah debootstrap), and takes some minutes and 2 GB under ${TMPDIR:-/tmp}.
#
# The base that the Dockerfile names comes from a registry. Where that cannot be reached, a Debian of the same Python (3.13)
# stands in, which is what --stand-in makes; everything behind the first line is the Dockerfile's own.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-image.XXXXXX")
tool() { buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"; }
trap 'tool umount --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

base=()
if [[ ${1:-} == --stand-in ]]; then
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$work/base" http://deb.debian.org/debian >/dev/null
  rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
  ln -s /usr/bin/python3 "$work/base/usr/local/bin/python3"
  # This machine's authorities, should its way to the package index have one of its own.
  cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/base/etc/pip.conf"
  container=$(tool from scratch)
  tool copy -q "$container" "$work/base" / >/dev/null
  tool commit -q "$container" localhost/stand-in:trixie >/dev/null
  base=(--build-arg PYTHON=localhost/stand-in:trixie --pull-never)
fi

tool bud --isolation chroot --network host --format docker "${base[@]}" -t localhost/portcullis:proof "$here"
image=$(tool mount "$(tool from --pull-never localhost/portcullis:proof)")
echo "--- sizes: what the gate adds to its base, and all of it"
du -sh "$image/opt/portcullis" "$image"

echo "--- the gate, with a read-only root"
unshare --mount --net --pid --fork bash -euo pipefail -s "$image" <<'INSIDE'
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
for folder in /var/lib/portcullis /run/portcullis; do mount -t tmpfs -o uid=65532,gid=65532,mode=700 none "$root$folder"; done
mount -t proc none "$root/proc"
python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14s", b"lo", 0x41, b""))'
inside=(chroot --userspec=65532:65532 --groups= "$root" /usr/bin/env -i PATH=/opt/portcullis/bin:/usr/local/bin:/usr/bin:/bin
  HOME=/var/lib/portcullis PORTCULLIS_CONFIG=/etc/portcullis/portcullis.yaml PYTHONDONTWRITEBYTECODE=1)
"${inside[@]}" portcullis serve & gate=$!
healthy="import http.client as h; c = h.HTTPConnection('127.0.0.1', 8082, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"
for _ in $(seq 200); do "${inside[@]}" python -c "$healthy" 2>/dev/null && break; done
"${inside[@]}" python -c "$healthy"
"${inside[@]}" python -c "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080); c.request('POST', '/v1/check', '{\"address\": \"203.0.113.9\"}'); print(c.getresponse().read().decode())"
"${inside[@]}" portcullis attack on --reason proof --wait
if "${inside[@]}" touch /opt/portcullis/written 2>/dev/null; then echo "the root can be written" >&2; exit 1; fi
kill -TERM "$gate"
wait "$gate" && echo 'the image builds, starts, answers and ends'
INSIDE
