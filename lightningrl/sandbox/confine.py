"""System calls that confine the calling process, through ctypes: namespaces, mounts, Landlock, capabilities.

The levels `unshare` and `landlock` consist of them; the launcher calls them in the process that becomes the jail, in a
fresh interpreter and never between a fork and an exec of the judge. Standard library only. Landlock governs the content
of files, the names in folders, TCP (from version 4), abstract sockets and signals (6); `seccomp.host_filter` and
`seccomp.alone_filter` refuse what it does not govern. Sources: linux/landlock.h, sched.h, sys/mount.h, linux/prctl.h,
linux/capability.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from collections.abc import Iterable
from typing import Any

NOBODY = 65534
"""The uid and gid in a user namespace."""
_NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET."""
_NEW_USER, _NEW_CGROUP = 0x10000000, 0x02000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _RECURSIVE, _PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_SOCKET, _MAKE_BLOCK, _TRUNCATE = 1 << 6, 1 << 9, 1 << 11, 1 << 14
_FILE_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
"""Versions 2, 3 and 5 added REFER, TRUNCATE and IOCTL_DEV."""
READING, DEVICE = _READ_FILE | _READ_DIR, _READ_FILE | _WRITE_FILE
EVERYTHING_BUT_PROGRAMS = ~(_EXECUTE | _MAKE_CHAR | _MAKE_SOCKET | _MAKE_BLOCK)
"""Rights for `LandlockRules.allow`."""
_TCP = 1 << 0 | 1 << 1
_SCOPES = 1 << 0 | 1 << 1
"""The scopes of abstract UNIX sockets and of signals."""

_libc = ctypes.CDLL(None, use_errno=True)
_MOUNTS = "/proc/self/ns/mnt"
_FIRST_MOUNTS = os.stat(_MOUNTS).st_ino if os.path.exists(_MOUNTS) else None
"""The mount namespace in which this file was loaded, which is the host's. None where there is no Linux /proc."""


def landlock_version() -> int:
    """Returns the version of the kernel's Landlock; 0: none (a kernel before 5.13, switched off, no Linux)."""
    if sys.platform != "linux":
        return 0
    return max(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1), 0)


def die_with_parent() -> None:
    """Requests SIGKILL when the parent ends. A change of the uid cancels this: call it afterwards."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Makes this process, not the host's init, the parent of descendants whose parents have ended."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def enter_namespaces(*, is_root: bool) -> None:
    """Moves this process into new namespaces; the process namespace applies from its next child on.

    They include one of users, in which the present user is nobody, unless the process is root and needs none.
    """
    outside_uid, outside_gid = os.geteuid(), os.getegid()
    _checked("unshare", _libc.unshare(_NEW_NAMESPACES | (0 if is_root else _NEW_USER)))
    _libc.unshare(_NEW_CGROUP)  # it only hides the name of the cgroup; old kernels do not have it
    if not is_root:
        write_file("/proc/self/setgroups", "deny")
        write_file("/proc/self/uid_map", f"{NOBODY} {outside_uid} 1")
        write_file("/proc/self/gid_map", f"{NOBODY} {outside_gid} 1")
    _checked("sethostname", _libc.sethostname(b"jail", ctypes.c_size_t(4)))
    _mount(None, "/", None, _RECURSIVE | _PRIVATE, None)


def mount_memory(place: str, size_bytes: int, *, writable: bool) -> None:
    """Mounts a file system in memory over a folder: a bounded writable one, or an empty one to hide the content."""
    flags = _NO_SUID | _NO_DEVICES | _NO_EXEC | (0 if writable else _READ_ONLY)
    mode = "1777" if writable else "0755"
    _mount("tmpfs", place, "tmpfs", flags, f"size={size_bytes},mode={mode},nr_inodes={max(size_bytes // 4096, 2)}")


def become(uid: int) -> None:
    """Changes to this uid and gid permanently, without other groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def give_up_privileges() -> None:
    """Drops all capabilities permanently, and closes the process's /proc entries to others of the same uid."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked("capset", _libc.capset(header, bytes(24)))
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    _control(_PR_SET_DUMPABLE, 0)


def install_filter(program: bytes) -> None:
    """Installs a seccomp program from `seccomp`; `give_up_privileges` must come first."""
    instructions = ctypes.create_string_buffer(program, len(program))
    argument = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _control(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, argument)


class LandlockRules:
    """A Landlock ruleset: it forbids everything that it can govern, except what is allowed by path."""

    def __init__(self) -> None:
        version = landlock_version()
        self._file_rights = sum(rights for since, rights in _FILE_RIGHTS_BY_VERSION.items() if version >= since)
        tcp, scopes = (_TCP if version >= 4 else 0), (_SCOPES if version >= 6 else 0)
        fields = struct.pack("=QQQ", self._file_rights, tcp, scopes)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        fd = _libc.syscall(_CREATE_RULESET, fields, ctypes.c_size_t(size), 0)
        self._fd = _checked("landlock_create_ruleset", fd)

    def allow(self, path: str, rights: int, *, without: Iterable[str] = ()) -> None:
        """Allows a folder or file and all below, except the content of the folders `without` (they can be listed)."""
        left_out = [folder for folder in without if folder.startswith(path.rstrip("/") + "/")]
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # a library that ldd lists but nothing needs
        try:
            allowed = rights & self._file_rights & (_READ_DIR if left_out else ~0)
            if not os.path.isdir(path):
                allowed &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
            rule = struct.pack("=Qi", allowed, fd)
            _checked(f"landlock_add_rule {path}", _libc.syscall(_ADD_RULE, self._fd, _RULE_PATH_BENEATH, rule, 0))
        finally:
            os.close(fd)
        for entry in os.scandir(path) if left_out else ():
            if entry.path not in left_out:
                self.allow(entry.path, rights, without=left_out)

    def enforce(self) -> None:
        """Restricts this process and all its descendants permanently; `give_up_privileges` must come first."""
        _checked("landlock_restrict_self", _libc.syscall(_RESTRICT_SELF, self._fd, 0))
        os.close(self._fd)


def write_file(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _control(option: int, *arguments: Any) -> None:
    words = [value if isinstance(value, bytes) else ctypes.c_ulong(value) for value in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    _checked(f"prctl {option}", _libc.prctl(option, *words))


def _mount(source: str | None, place: str, kind: str | None, flags: int, options: str | None) -> None:
    if _FIRST_MOUNTS is None or os.stat(_MOUNTS).st_ino == _FIRST_MOUNTS:
        raise OSError(errno.EPERM, f"mount {place}: refused, this is the host's mount namespace and not the jail's own")
    words = [None if word is None else os.fsencode(word) for word in (source, place, kind, options)]
    _checked(f"mount {place}", _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]))


def _checked(what: str, result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
