"""The program with which the probe attacks, and the host's sockets that it tries to reach."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SOURCE = """
import ctypes, os, socket

def succeeds(attempt, *args):
    try:
        attempt(*args)
        return True
    except OSError:
        return False

def read(path):
    if os.path.isdir(path):
        os.listdir(path)
    else:
        os.close(os.open(path, os.O_RDONLY))

def send(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(1)
        if kind == socket.SOCK_DGRAM:
            s.sendto(b"probe", address)
        else:
            s.connect(address)

def write(folder):
    os.close(os.open(folder + "/lightningrl-probe", os.O_WRONLY | os.O_CREAT, 0o600))
    os.remove(folder + "/lightningrl-probe")

def keep_mode(path):
    os.chmod(path, os.stat(path).st_mode & 0o7777)

def fork_until_refused(limit):
    read_end, write_end = os.pipe()
    children = []
    try:
        while len(children) < limit:
            child = os.fork()
            if child == 0:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    os.close(write_end)
    for child in children:
        os.waitpid(child, 0)
    return len(children)

def facts(address, host_files, judge, limit, work_folder):
    libc = ctypes.CDLL(None)
    forks = fork_until_refused(limit)  # before ptrace: traced, this process would stop at its children's ends
    folders = {"/", "/dev", "/tmp", "/var/tmp", "/dev/shm", os.path.dirname(os.__file__)}
    folders |= {os.path.dirname(path) for path in host_files}
    here = os.path.realpath(work_folder) if work_folder else None
    elsewhere = [folder for folder in sorted(folders) if os.path.realpath(folder) != here]
    succeeds(send, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", address["tcp"]))
    succeeds(send, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", address["udp"]))
    succeeds(send, socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + address["name"])
    succeeds(send, socket.AF_UNIX, socket.SOCK_STREAM, address["path"])
    rights = {
        "user namespaces": libc.unshare(0x10000000),
        "ptrace": libc.ptrace(0, 0, 0, 0),
        "mounts": libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0),
    }
    return {
        "uid": os.getuid(),
        "names": [path for path in host_files if os.path.exists(path)],
        "readable": [path for path in host_files if succeeds(read, path)],
        "changed": [path for path in host_files if succeeds(keep_mode, path)],
        "environment": sorted(os.environ),
        "outside": [folder for folder in elsewhere if succeeds(write, folder)],
        "rights": [name for name, result in rights.items() if result != -1],
        "signals": succeeds(os.kill, judge, 0),
        "forks": forks,
    }
"""
HOST_FILES = ("/etc/passwd", "/proc/self/status", "/sys/kernel", "/bin/sh", "/home", __file__)


@dataclass(frozen=True, slots=True)
class ListeningSockets:
    """Sockets of the host: TCP and UDP on the loopback, UNIX sockets with an abstract name and with a path."""

    address: dict[str, Any]
    sockets: dict[str, socket.socket]

    def contacted(self) -> list[str]:
        """Returns the kinds of sockets at which something arrived."""
        ready, _, _ = select.select(list(self.sockets.values()), [], [], 0)
        return [kind for kind, listener in self.sockets.items() if listener in ready]


@contextlib.contextmanager
def listening_sockets() -> Iterator[ListeningSockets]:
    name = f"lightningrl-{os.getpid()}-{os.urandom(4).hex()}"
    with contextlib.ExitStack() as stack:
        # Not in /tmp, which a jail may cover with its own folder: a service's socket is elsewhere.
        place = "/var/tmp" if os.access("/var/tmp", os.W_OK | os.X_OK) else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lightningrl-", dir=place))
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "socket")
        sockets = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "abstract": socket.socket(socket.AF_UNIX),
            "path": socket.socket(socket.AF_UNIX),
        }
        for listener in sockets.values():
            stack.enter_context(listener)
        sockets["udp"].bind(("127.0.0.1", 0))
        sockets["abstract"].bind("\0" + name)
        sockets["path"].bind(path)
        os.chmod(path, 0o777)
        sockets["abstract"].listen()
        sockets["path"].listen()
        address = {kind: sockets[kind].getsockname()[1] for kind in ("tcp", "udp")}
        yield ListeningSockets(address | {"name": name, "path": path}, sockets)
