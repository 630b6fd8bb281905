"""Seccomp filters for jails, which refuse system calls that candidate code does not need.

There are four independent programs; the kernel allows what all filters of a process allow.

- `filter_program`, at every level, refuses what namespaces and resource limits leave open: new user namespaces (whose
  mounts have no size limit), memory outside all limits (memfd, System V segments), sockets outside the network
  namespace (AF_VSOCK reaches a virtual machine's host), other processes' memory, and large kernel interfaces (bpf,
  io_uring, keyrings, ...).
- `host_filter`, where the host's files have names in the jail, refuses what Landlock does not cover: modes, owners,
  times and attributes of files, truncation by name (before Landlock 3), all sockets (a service's is a file; UDP), and
  programs.
- `alone_filter`, where the host's processes have numbers in the jail, refuses new processes, signals and limits for any
  other process, and message queues and segments of others. Threads stay allowed.
- `plain_filter` is for a program in a jail that another program will use after it. Unlike the others it lists what is
  allowed: what one process with one thread needs to compute, to read files and to inspect itself. Anything else (a
  process, a thread, a file opened for writing, a signal to another process, a socket, a change of priority, whatever
  newer kernels add) ends the program immediately with SIGSYS, before the call has an effect. The judge sees that signal
  and runs the program again, from its start, in its own jail without this filter.

clone3 answers ENOSYS, not EPERM: the C library then falls back to clone, whose flags can be examined. This file runs in
the judge and in the launcher: standard library only. Sources: linux/seccomp.h, linux/filter.h, asm/unistd_64.h,
asm-generic/unistd.h, linux/sched.h, linux/fs.h.
"""

from __future__ import annotations

import errno
import os
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
_REFUSED_ON_HOST_FILES = {
    "x86_64": {
        "accept": 43, "accept4": 288, "acct": 163, "bind": 49, "chmod": 90, "chown": 92, "connect": 42, "execve": 59,
        "execveat": 322, "fanotify_init": 300, "fchmod": 91, "fchmodat": 268, "fchown": 93, "fchownat": 260,
        "fremovexattr": 199, "fsetxattr": 190, "futimesat": 261, "inotify_init": 253, "inotify_init1": 294,
        "lchown": 94, "listen": 50, "lremovexattr": 198, "lsetxattr": 189, "name_to_handle_at": 303, "quotactl": 179,
        "removexattr": 197, "setxattr": 188, "socket": 41, "truncate": 76, "utime": 132, "utimensat": 280,
        "utimes": 235,
    },
    "aarch64": {
        "accept": 202, "accept4": 242, "acct": 89, "bind": 200, "connect": 203, "execve": 221, "execveat": 281,
        "fanotify_init": 262, "fchmod": 52, "fchmodat": 53, "fchown": 55, "fchownat": 54, "fremovexattr": 16,
        "fsetxattr": 7, "inotify_init1": 26, "listen": 201, "lremovexattr": 15, "lsetxattr": 6,
        "name_to_handle_at": 264, "quotactl": 60, "removexattr": 14, "setxattr": 5, "socket": 198, "truncate": 45,
        "utimensat": 88,
    },
}  # fmt: skip
_REFUSED_ON_HOST_FILES_EVERYWHERE = {
    "quotactl_fd": 443, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469,
}  # fmt: skip
_REFUSED_ALONE = {
    "x86_64": {
        "fork": 57, "ioprio_set": 251, "kcmp": 312, "migrate_pages": 256, "move_pages": 279, "mq_open": 240,
        "mq_unlink": 241, "msgctl": 71, "msgrcv": 70, "msgsnd": 69, "sched_setaffinity": 203, "sched_setattr": 314,
        "sched_setparam": 142, "sched_setscheduler": 144, "semctl": 66, "semop": 65, "semtimedop": 220,
        "setpriority": 141, "shmat": 30, "shmctl": 31, "tkill": 200, "vfork": 58,
    },
    "aarch64": {
        "ioprio_set": 30, "kcmp": 272, "migrate_pages": 238, "move_pages": 239, "mq_open": 180, "mq_unlink": 181,
        "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "sched_setaffinity": 122, "sched_setattr": 274,
        "sched_setparam": 118, "sched_setscheduler": 119, "semctl": 191, "semop": 193, "semtimedop": 192,
        "setpriority": 140, "shmat": 196, "shmctl": 195, "tkill": 130,
    },
}  # fmt: skip
_REFUSED_ALONE_EVERYWHERE = {
    "pidfd_send_signal": 424, "pidfd_open": 434, "process_madvise": 440, "process_mrelease": 448,
}  # fmt: skip
_PLAIN = {
    "x86_64": {
        "access": 21, "alarm": 37, "brk": 12, "clock_getres": 229, "clock_gettime": 228, "clock_nanosleep": 230,
        "close": 3, "dup": 32, "dup2": 33, "dup3": 292, "epoll_create": 213, "epoll_create1": 291, "epoll_ctl": 233,
        "epoll_pwait": 281, "epoll_wait": 232, "eventfd2": 290, "exit": 60, "exit_group": 231, "faccessat": 269,
        "fstat": 5, "futex": 202, "getcpu": 309, "getcwd": 79, "getdents64": 217, "getegid": 108, "geteuid": 107,
        "getgid": 104, "getgroups": 115, "getitimer": 36, "getpeername": 52, "getpgid": 121, "getpgrp": 111,
        "getpid": 39, "getppid": 110, "getpriority": 140, "getrandom": 318, "getresgid": 120, "getresuid": 118,
        "getrlimit": 97, "getrusage": 98, "getsid": 124, "getsockname": 51, "getsockopt": 55, "gettid": 186,
        "gettimeofday": 96, "getuid": 102, "lseek": 8, "lstat": 6, "madvise": 28, "mmap": 9, "mprotect": 10,
        "mremap": 25, "munmap": 11, "nanosleep": 35, "newfstatat": 262, "pause": 34, "pipe": 22, "pipe2": 293,
        "poll": 7, "ppoll": 271, "pread64": 17, "pselect6": 270, "read": 0, "readlink": 89, "readlinkat": 267,
        "readv": 19, "recvfrom": 45, "restart_syscall": 219, "rseq": 334, "rt_sigaction": 13, "rt_sigpending": 127,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigsuspend": 130, "rt_sigtimedwait": 128,
        "sched_get_priority_max": 146, "sched_get_priority_min": 147, "sched_getaffinity": 204,
        "sched_getparam": 143, "sched_getscheduler": 145, "sched_yield": 24, "select": 23, "sendto": 44,
        "set_robust_list": 273, "set_tid_address": 218, "setitimer": 38, "setrlimit": 160, "shutdown": 48,
        "sigaltstack": 131, "stat": 4, "statx": 332, "sysinfo": 99, "time": 201, "times": 100, "umask": 95, "uname": 63,
        "write": 1, "writev": 20,
    },
    "aarch64": {
        "brk": 214, "clock_getres": 114, "clock_gettime": 113, "clock_nanosleep": 115, "close": 57, "dup": 23,
        "dup3": 24, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "eventfd2": 19, "exit": 93,
        "exit_group": 94, "faccessat": 48, "fstat": 80, "futex": 98, "getcpu": 168, "getcwd": 17, "getdents64": 61,
        "getegid": 177, "geteuid": 175, "getgid": 176, "getgroups": 158, "getitimer": 102, "getpeername": 205,
        "getpgid": 155, "getpid": 172, "getppid": 173, "getpriority": 141, "getrandom": 278, "getresgid": 150,
        "getresuid": 148, "getrlimit": 163, "getrusage": 165, "getsid": 156, "getsockname": 204, "getsockopt": 209,
        "gettid": 178, "gettimeofday": 169, "getuid": 174, "lseek": 62, "madvise": 233, "mmap": 222, "mprotect": 226,
        "mremap": 216, "munmap": 215, "nanosleep": 101, "newfstatat": 79, "pipe2": 59, "ppoll": 73, "pread64": 67,
        "pselect6": 72, "read": 63, "readlinkat": 78, "readv": 65, "recvfrom": 207, "restart_syscall": 128,
        "rseq": 293, "rt_sigaction": 134, "rt_sigpending": 136, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "rt_sigsuspend": 133, "rt_sigtimedwait": 137, "sched_get_priority_max": 125, "sched_get_priority_min": 126,
        "sched_getaffinity": 123, "sched_getparam": 121, "sched_getscheduler": 120, "sched_yield": 124, "sendto": 206,
        "set_robust_list": 99, "set_tid_address": 96, "setitimer": 103, "setrlimit": 164, "shutdown": 210,
        "sigaltstack": 132, "statx": 291, "sysinfo": 179, "times": 153, "umask": 166, "uname": 160, "write": 64,
        "writev": 66,
    },
}  # fmt: skip
_PLAIN_EVERYWHERE = {"clone3": 435, "close_range": 436, "faccessat2": 439, "epoll_pwait2": 441}
"""clone3 passes on to `filter_program`, which answers ENOSYS."""
_TO_ITSELF_ONLY = {
    "x86_64": {"kill": 62, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "tgkill": 234},
    "aarch64": {"kill": 129, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "tgkill": 131},
}
"""The system calls whose first argument is a process."""
_CLONE3 = 435
_OPENAT = {"x86_64": 257, "aarch64": 56}
_CLONE = {"x86_64": 56, "aarch64": 220}
_FCNTL = {"x86_64": 72, "aarch64": 25}
_IOCTL = {"x86_64": 16, "aarch64": 29}
_PRCTL = {"x86_64": 157, "aarch64": 167}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
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


def supported() -> bool:
    return os.uname().machine in _REFUSED


def filter_program() -> bytes:
    """Returns the BPF program of every level for this machine, as an array of `struct sock_filter`."""
    machine = os.uname().machine
    rules = _only_arguments(_SOCKET[machine], 0, _SOCKET_FAMILIES, _refuse(errno.EAFNOSUPPORT))
    rules += _rule(_CLONE[machine], [_op(_LOAD, _ARGUMENT[0]), _op(_JSET, _CLONE_NEW_ANY, 0, 1), _refuse(errno.EPERM)])
    return _program([*_REFUSED[machine].values(), *_REFUSED_EVERYWHERE.values()], rules)


def host_filter() -> bytes:
    """Returns the filter where host files have names. A connected pair of streams is the only allowed socket."""
    machine = os.uname().machine
    is_stream = [_op(_LOAD, _ARGUMENT[1]), _op(_AND, _SOCK_TYPE_MASK), _op(_JEQ, _SOCK_STREAM, 1, 0)]
    rules = _rule(_SOCKETPAIR[machine], [*is_stream, _refuse(errno.EPERM)])
    rules += _refused_arguments(_IOCTL[machine], 1, _FILE_IOCTLS)
    rules += _refused_arguments(_FCNTL[machine], 1, _FILE_FCNTLS)
    refused = [*_REFUSED_ON_HOST_FILES[machine].values(), *_REFUSED_ON_HOST_FILES_EVERYWHERE.values()]
    return _program(refused, rules)


def alone_filter(pid: int) -> bytes:
    """Returns the filter for the process `pid` where other processes have numbers: it can affect itself only."""
    machine = os.uname().machine
    is_thread = [_op(_LOAD, _ARGUMENT[0]), _op(_JSET, _CLONE_THREAD, 1, 0)]
    rules = _rule(_CLONE[machine], [*is_thread, _refuse(errno.EPERM)])
    for number in _TO_ITSELF_ONLY[machine].values():
        rules += _only_arguments(number, 0, (pid,), _refuse(errno.EPERM))
    rules += _only_arguments(_PRLIMIT[machine], 0, (0, pid), _refuse(errno.EPERM))
    rules += _refused_arguments(_PRCTL[machine], 0, (_PR_SET_PDEATHSIG,))
    rules += _refused_arguments(_FCNTL[machine], 1, _OWNER_FCNTLS)
    rules += _refused_arguments(_IOCTL[machine], 1, _OWNER_IOCTLS)
    return _program([*_REFUSED_ALONE[machine].values(), *_REFUSED_ALONE_EVERYWHERE.values()], rules)


def plain_filter() -> bytes:
    """Returns the filter for a program in a jail that another one will use after it: see the module."""
    machine, kill = os.uname().machine, _op(_RETURN, _KILL)
    program = [_op(_LOAD, _ARCH), _op(_JEQ, _AUDIT_ARCH[machine], 1, 0), kill, _op(_LOAD, _NUMBER)]
    for number in (*_PLAIN[machine].values(), *_PLAIN_EVERYWHERE.values()):
        program += [_op(_JEQ, number, 0, 1), _op(_RETURN, _ALLOW)]
    not_for_reading = ~_READING_FLAGS & 0xFFFFFFFF
    program += _rule(_OPENAT[machine], [_op(_LOAD, _ARGUMENT[2]), _op(_JSET, not_for_reading, 0, 1), kill])
    program += _only_arguments(_FCNTL[machine], 1, _PLAIN_FCNTLS, kill)
    program += _only_arguments(_IOCTL[machine], 1, _PLAIN_IOCTLS, kill)
    program += _only_arguments(_PRCTL[machine], 0, _PLAIN_PRCTLS, kill)
    program += _only_arguments(_PRLIMIT[machine], 0, (0,), kill)
    is_stream = [_op(_LOAD, _ARGUMENT[1]), _op(_AND, _SOCK_TYPE_MASK), _op(_JEQ, _SOCK_STREAM, 1, 0)]
    program += _rule(_SOCKETPAIR[machine], [*is_stream, kill])
    return b"".join([*program, kill])


def _program(refused: list[int], rules: list[bytes]) -> bytes:
    program = [
        _op(_LOAD, _ARCH),
        _op(_JEQ, _AUDIT_ARCH[os.uname().machine], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
        _op(_JGE, _X32_BIT, 0, 1),
        _refuse(errno.EPERM),
        *_rule(_CLONE3, [_refuse(errno.ENOSYS)]),
    ]
    for number in sorted(refused):
        program += [_op(_JEQ, number, 0, 1), _refuse(errno.EPERM)]
    return b"".join([*program, *rules, _op(_RETURN, _ALLOW)])


def _rule(number: int, body: list[bytes]) -> list[bytes]:
    """Returns instructions that apply `body` to this system call; without a return in it, the call is allowed."""
    return [_op(_JEQ, number, 0, len(body) + 1), *body, _op(_RETURN, _ALLOW)]


def _only_arguments(number: int, place: int, allowed: tuple[int, ...], otherwise: bytes) -> list[bytes]:
    tests = [_op(_JEQ, value, len(allowed) - index, 0) for index, value in enumerate(allowed)]
    return _rule(number, [_op(_LOAD, _ARGUMENT[place]), *tests, otherwise])


def _refused_arguments(number: int, place: int, refused: tuple[int, ...]) -> list[bytes]:
    tests = [test for value in refused for test in (_op(_JEQ, value, 0, 1), _refuse(errno.EPERM))]
    return _rule(number, [_op(_LOAD, _ARGUMENT[place]), *tests])


def _op(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _refuse(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)
