"""Seccomp filters for jails: four independent programs, of which the kernel allows what all of a process allow.

- `filter_program`, at every level, refuses what namespaces and resource limits leave open: new user namespaces (whose
  mounts have no size limit), memory outside all limits (memfd, System V segments), sockets outside the network
  namespace (AF_VSOCK reaches a virtual machine's host), other processes' memory, and large kernel interfaces.
- `host_filter`, where the host's files have names in the jail, refuses what Landlock does not cover: modes, owners,
  times and attributes of files, truncation by name (before Landlock 3), all sockets (a service's is a file; UDP), and
  programs.
- `alone_filter`, where the host's processes have numbers in the jail, refuses new processes, signals and limits for any
  other process, and message queues and segments of others. Threads stay allowed.
- `plain_filter` is for a program in a jail that another program will use after it. Unlike the others it lists what is
  allowed: what one process with one thread needs to compute, to read files and to inspect itself. Anything else ends
  the program with SIGSYS, before the call has an effect. The judge sees that signal and runs the program again, from
  its start, in its own jail without this filter.

`syscalls.csv` has the numbers on both machines and the filter that names a call: the group `refused` is
`filter_program`'s, `host`, `alone` and `plain` those of the others; calls of the group `itself` have a process as their
first argument, and the arguments of `examined` ones decide. clone3 answers ENOSYS, not EPERM: the C library then falls
back to clone, whose flags can be examined. This file runs in the judge and in the launcher: standard library only.
Sources: linux/seccomp.h, linux/filter.h, asm/unistd_64.h, asm-generic/unistd.h, linux/sched.h, linux/fs.h.
"""

from __future__ import annotations

import errno
import os
import struct

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_CLONE_NEW_ANY = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (NEWTIME is for unshare and clone3 only)."""
_CLONE_THREAD = 0x00010000
_SOCKET_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: all of the jail's own network namespace."""
_SOCK_STREAM, _SOCK_TYPE_MASK = 1, 0xF
_FILE_IOCTLS = (0x40086602, 0x401C5820, 0x40806685)
"""FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY, which an owner may use on a file open for reading."""
_OWNER_IOCTLS = (0x8901, 0x8902)
"""FIOSETOWN, SIOCSPGRP."""
_FILE_FCNTLS = (1024, 1026)
"""F_SETLEASE, F_NOTIFY."""
_OWNER_FCNTLS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX, which send a signal to any process when a descriptor is ready."""
_PR_SET_PDEATHSIG = 1
_READING_FLAGS = os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""The flags with which a plain program may open a file; O_RDONLY is 0."""
_PLAIN_FCNTLS = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC."""
_PLAIN_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_PLAIN_PRCTLS = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""

_LOAD, _JEQ, _JGE, _JSET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, (16, 24, 32)
"""Offsets in `struct seccomp_data`; for an argument, that of its lower half on these little-endian machines."""
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def read_calls(machine: str) -> dict[str, tuple[str, int]]:
    """Returns the group and the number of each system call by name; none for a machine that is not known."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "syscalls.csv")) as file:
        head, *rows = [line.split(",") for line in file.read().split()]
    column = head.index(machine) if machine in _AUDIT_ARCH else None
    return {} if column is None else {row[1]: (row[0], int(row[column])) for row in rows if row[column]}


_MACHINE = os.uname().machine
_CALLS = read_calls(_MACHINE)


def missing() -> str | None:
    """Returns why there are no filters for this machine; None: there are."""
    return None if _CALLS else f"the seccomp filter knows {' and '.join(_AUDIT_ARCH)}, not {_MACHINE}"


def filter_program() -> bytes:
    """Returns the BPF program of every level for this machine, as an array of `struct sock_filter`."""
    rules = _only_arguments("socket", 0, _SOCKET_FAMILIES, _refuse(errno.EAFNOSUPPORT))
    rules += _rule("clone", [_op(_LOAD, _ARGUMENT[0]), _op(_JSET, _CLONE_NEW_ANY, 0, 1), _refuse()])
    return _program("refused", rules)


def host_filter() -> bytes:
    """Returns the filter where host files have names. A connected pair of streams is the only allowed socket."""
    rules = _only_streams(_refuse())
    rules += _refused_arguments("ioctl", 1, _FILE_IOCTLS)
    rules += _refused_arguments("fcntl", 1, _FILE_FCNTLS)
    return _program("host", rules)


def alone_filter(pid: int) -> bytes:
    """Returns the filter for the process `pid` where other processes have numbers: it can affect itself only."""
    rules = _rule("clone", [_op(_LOAD, _ARGUMENT[0]), _op(_JSET, _CLONE_THREAD, 1, 0), _refuse()])
    for name in _names("itself"):
        rules += _only_arguments(name, 0, (pid,), _refuse())
    rules += _only_arguments("prlimit64", 0, (0, pid), _refuse())
    rules += _refused_arguments("prctl", 0, (_PR_SET_PDEATHSIG,))
    rules += _refused_arguments("fcntl", 1, _OWNER_FCNTLS)
    rules += _refused_arguments("ioctl", 1, _OWNER_IOCTLS)
    return _program("alone", rules)


def plain_filter() -> bytes:
    """Returns the filter for a program in a jail that another one will use after it: see the module."""
    kill, not_for_reading = _op(_RETURN, _KILL), ~_READING_FLAGS & 0xFFFFFFFF
    program = _beginning()
    for name in _names("plain"):
        program += _rule(name, [])
    program += _rule("openat", [_op(_LOAD, _ARGUMENT[2]), _op(_JSET, not_for_reading, 0, 1), kill])
    program += _only_arguments("fcntl", 1, _PLAIN_FCNTLS, kill)
    program += _only_arguments("ioctl", 1, _PLAIN_IOCTLS, kill)
    program += _only_arguments("prctl", 0, _PLAIN_PRCTLS, kill)
    program += _only_arguments("prlimit64", 0, (0,), kill)
    return b"".join([*program, *_only_streams(kill), kill])


def _names(group: str) -> list[str]:
    return [name for name, (its_group, _) in _CALLS.items() if its_group == group]


def _beginning() -> list[bytes]:
    return [_op(_LOAD, _ARCH), _op(_JEQ, _AUDIT_ARCH[_MACHINE], 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]


def _program(group: str, rules: list[bytes]) -> bytes:
    """Returns the filter that refuses the calls of a group, then applies the rules and allows the rest."""
    program = [*_beginning(), _op(_JGE, _X32_BIT, 0, 1), _refuse(), *_rule("clone3", [_refuse(errno.ENOSYS)])]
    for number in sorted(_CALLS[name][1] for name in _names(group)):
        program += [_op(_JEQ, number, 0, 1), _refuse()]
    return b"".join([*program, *rules, _op(_RETURN, _ALLOW)])


def _rule(name: str, body: list[bytes]) -> list[bytes]:
    """Returns instructions that apply `body` to this system call; without a return in it, the call is allowed."""
    return [_op(_JEQ, _CALLS[name][1], 0, len(body) + 1), *body, _op(_RETURN, _ALLOW)]


def _only_arguments(name: str, place: int, allowed: tuple[int, ...], otherwise: bytes) -> list[bytes]:
    tests = [_op(_JEQ, value, len(allowed) - index, 0) for index, value in enumerate(allowed)]
    return _rule(name, [_op(_LOAD, _ARGUMENT[place]), *tests, otherwise])


def _refused_arguments(name: str, place: int, refused: tuple[int, ...]) -> list[bytes]:
    tests = [test for value in refused for test in (_op(_JEQ, value, 0, 1), _refuse())]
    return _rule(name, [_op(_LOAD, _ARGUMENT[place]), *tests])


def _only_streams(otherwise: bytes) -> list[bytes]:
    is_stream = [_op(_LOAD, _ARGUMENT[1]), _op(_AND, _SOCK_TYPE_MASK), _op(_JEQ, _SOCK_STREAM, 1, 0)]
    return _rule("socketpair", [*is_stream, otherwise])


def _op(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _refuse(number: int = errno.EPERM) -> bytes:
    return _op(_RETURN, _ERRNO | number)
