"""The jail's first process: it forks a process for each program and waits for its end, but runs no program's code.

It has the control channel, descriptor 0: a socket to the judge that preserves message boundaries. A message from the
judge is `.` and a seccomp filter (or nothing), with two descriptors for this program: request and reply.
`serve` then returns in a new process, which no longer has the channel. When that process has ended, the answer is
`{"ended": exit code, "clean": bool}`. The jail is clean, which is possible only after a program with a filter, if no
other process is left in it, and everything is unchanged that a process of the same user could change in this process or
in the work folder.

The judge may then send the next program. It does so only if the filter is `seccomp.plain_filter` and everything else
was in order too (`lightningrl.sandbox.session.running`); otherwise it kills the jail. When the judge closes the channel
or dies, this process ends and, if it is the first of a namespace, everything in the jail with it.

Nothing here depends on the number of previous programs: each is forked from the same state.
"""

import _socket  # importing `socket` would cost each jail some milliseconds for unused constants
import ctypes
import gc
import os
import resource
import select
import signal
import struct
from typing import Any, NamedTuple

_CONTROL = 0
_MESSAGE_BYTES = 1 << 16
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_WAIT_FOR_ALL_KINDS = 0x40000000
"""__WALL: children with another exit signal than SIGCHLD count too."""
_LOOK_AGAIN_MS = 10
"""The polling interval on kernels before 5.3, which have no descriptors for processes."""
_LIMITS = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Program(NamedTuple):
    """The filter and the descriptors of a program's process."""

    filter: Any
    """The instructions of the seccomp filter to install before candidate code runs; none for an own jail."""
    request: int
    reply: int
    null: int
    """/dev/null, which is on 0 and 1 too."""


def serve() -> Program:
    """Returns once for each program, in a new process, and never in this one."""
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _CONTROL)
    # The first process of a namespace gets only signals that it handles, and Python handles this one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    at_first = None
    while True:
        data, ancillary, _, _ = control.recvmsg(_MESSAGE_BYTES, _socket.CMSG_SPACE(2 * 4))
        if not data:
            os._exit(0)  # the judge is gone
        program_filter, descriptors = data[1:], list(memoryview(ancillary[0][2]).cast("i"))
        if program_filter and at_first is None:
            at_first = _state()
        child = os.fork()
        if child == 0:
            return _leave(control, program_filter, descriptors)
        code = _end_of(child, control)
        is_clean = bool(program_filter) and _is_alone() and _state() == at_first
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            control.send(b'{"ended":%d,"clean":%s}' % (code, b"true" if is_clean else b"false"))
        except OSError:
            os._exit(0)  # the judge is gone


def install(program: Program) -> None:
    """Installs the filter on this process permanently; the level has set no_new_privs."""
    size = len(program.filter) // 8
    argument = struct.pack("@HP", size, ctypes.addressof(program.filter))  # a `struct sock_fprog`
    if size and _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, argument, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter of system calls cannot be installed")


def _leave(control: _socket.socket, program_filter: bytes, descriptors: list[int]) -> Program:
    """Removes everything of the parent from the new process, except memory that both only read."""
    null = os.open("/dev/null", os.O_RDWR)
    control.detach()
    os.dup2(null, _CONTROL)
    os.dup2(null, 1)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    instructions = ctypes.create_string_buffer(program_filter, len(program_filter))
    gc.collect()  # its counters start at 0 in each program, whatever the parent has allocated since `freeze`
    return Program(instructions, *descriptors, null=null)


def _end_of(child: int, control: _socket.socket) -> int:
    """Waits for the process and returns its exit code, negative for a signal. Ends with the judge."""
    waiting = select.poll()
    waiting.register(control.fileno(), select.POLLIN)
    try:
        process = os.pidfd_open(child)
        waiting.register(process, select.POLLIN)
    except (AttributeError, OSError):
        process = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        for descriptor, _ in waiting.poll(None if process is not None else _LOOK_AGAIN_MS):
            if descriptor == control.fileno():
                os._exit(0)  # the judge sends nothing before the end: it is gone
    if process is not None:
        os.close(process)
    return os.waitstatus_to_exitcode(status)


def _is_alone() -> bool:
    """Whether this process has no child left. Orphans of the namespace are its children too."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG | _WAIT_FOR_ALL_KINDS)[0] == 0:
                return False
        except ChildProcessError:
            return True


def _state() -> tuple[Any, ...]:
    """Returns everything that a process of the same user might change in this one or in the work folder."""
    lowest = os.dup(_CONTROL)
    os.close(lowest)
    folder, space = os.stat("."), os.statvfs(".")
    return (
        lowest,
        [resource.getrlimit(limit) for limit in _LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.sched_getaffinity(0)),
        (signal.sigpending(), signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        (os.getpgrp(), os.getsid(0), os.getcwd()),
        os.listdir("."),
        (folder.st_mode, folder.st_uid, folder.st_gid, folder.st_nlink, folder.st_mtime_ns, folder.st_ctime_ns),
        (space.f_bfree, space.f_ffree),
    )
