"""A seccomp filter for jails: system calls that candidate code has no use for, refused with an errno.

Namespaces and resource limits do not cover everything. This filter closes what they leave open: new user namespaces
(whose mounts have no size limit), memory that counts against no limit (memfd, System V segments), sockets outside
the network namespace (AF_VSOCK reaches a virtual machine's host), other processes' memory, and large kernel
interfaces (bpf, io_uring, keyrings, ...). clone3 answers ENOSYS, not EPERM: the C library then falls back to clone,
whose flags can be examined. Sources: linux/seccomp.h, linux/filter.h, asm/unistd_64.h, asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import struct

_REFUSED = {
    "x86_64": {
        "add_key": 248, "bpf": 321, "chroot": 161, "delete_module": 176, "finit_module": 313, "init_module": 175,
        "io_uring_enter": 426, "io_uring_register": 427, "io_uring_setup": 425, "kexec_file_load": 320,
        "kexec_load": 246, "keyctl": 250, "memfd_create": 319, "mount": 165, "msgget": 68, "open_by_handle_at": 304,
        "perf_event_open": 298, "personality": 135, "pivot_root": 155, "process_vm_readv": 310,
        "process_vm_writev": 311, "ptrace": 101, "reboot": 169, "request_key": 249, "semget": 64, "setns": 308,
        "shmget": 29, "swapon": 167, "syslog": 103, "umount2": 166, "unshare": 272, "userfaultfd": 323,
    },
    "aarch64": {
        "add_key": 217, "bpf": 280, "chroot": 51, "delete_module": 106, "finit_module": 273, "init_module": 105,
        "io_uring_enter": 426, "io_uring_register": 427, "io_uring_setup": 425, "kexec_file_load": 294,
        "kexec_load": 104, "keyctl": 219, "memfd_create": 279, "mount": 40, "msgget": 186, "open_by_handle_at": 265,
        "perf_event_open": 241, "personality": 92, "pivot_root": 41, "process_vm_readv": 270,
        "process_vm_writev": 271, "ptrace": 117, "reboot": 142, "request_key": 218, "semget": 190, "setns": 268,
        "shmget": 194, "swapon": 224, "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282,
    },
}  # fmt: skip
_REFUSED_EVERYWHERE = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_CLONE3 = 435
_CLONE = {"x86_64": 56, "aarch64": 220}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_CLONE_NEW_ANY = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (NEWTIME is for unshare and clone3 only)."""
_SOCKET_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: all of the jail's own network namespace."""

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT_0 = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def supported() -> bool:
    return platform.machine() in _REFUSED


def filter_program() -> bytes:
    """The BPF program for this machine, as an array of `struct sock_filter`."""
    machine = platform.machine()
    program = [
        _op(_LOAD, _ARCH),
        _op(_JEQ, _AUDIT_ARCH[machine], jump_true=1),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
        _op(_JGE, _X32_BIT, jump_false=1),
        _refuse(errno.EPERM),
        _op(_JEQ, _CLONE3, jump_false=1),
        _refuse(errno.ENOSYS),
    ]
    for number in sorted([*_REFUSED[machine].values(), *_REFUSED_EVERYWHERE.values()]):
        program += [_op(_JEQ, number, jump_false=1), _refuse(errno.EPERM)]
    program += [
        _op(_JEQ, _CLONE[machine], jump_false=4),
        _op(_LOAD, _ARGUMENT_0),
        _op(_JSET, _CLONE_NEW_ANY, jump_false=1),
        _refuse(errno.EPERM),
        _op(_RETURN, _ALLOW),
        _op(_JEQ, _SOCKET[machine], jump_false=5),
        _op(_LOAD, _ARGUMENT_0),
        *(_op(_JEQ, family, jump_true=len(_SOCKET_FAMILIES) - place) for place, family in enumerate(_SOCKET_FAMILIES)),
        _refuse(errno.EAFNOSUPPORT),
        _op(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _op(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _refuse(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)
