"""Two hosts on one machine: a network, a host name and process ids of their own, and a line between them. Needs root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PREFIX = "pns-test"


@dataclass(frozen=True)
class Host:
    """One of them."""

    name: str
    address: str

    @property
    def line(self) -> str:
        """Its end of the line."""
        return f"{self.name}-l"

    def words(self) -> list[str]:
        """What stands before a command to run it there; a kill of it ends all that it has started."""
        inside = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        return [
            "ip", "netns", "exec", self.name, *inside, "sh", "-c", f'hostname {self.name}; exec "$@"', "sh",
        ]  # fmt: skip


def why_not() -> str | None:
    """Why hosts cannot be made here; None: they can."""
    for program in ("ip", "unshare", "hostname"):
        if shutil.which(program) is None:
            return f"no {program}"
    try:
        with two_hosts() as (first, _):
            found = subprocess.run([*first.words(), "hostname"], capture_output=True, text=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {str(error.stderr).strip()[:100]}"
    return None if found.strip() == first.name else "no host name of its own"


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Raises CalledProcessError where the system does not let us."""
    hosts = Host(f"{PREFIX}1", "10.77.0.1"), Host(f"{PREFIX}2", "10.77.0.2")
    _remove(hosts)
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        one, other = hosts
        _ip("link", "add", one.line, "netns", one.name, "type", "veth", "peer", "name", other.line, "netns", other.name)
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.line)
            for line in (host.line, "lo"):
                _ip("-n", host.name, "link", "set", line, "up")
        yield hosts
    finally:
        _remove(hosts)


def _remove(hosts: tuple[Host, Host]) -> None:
    for host in hosts:
        subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
