"""The jail's first process: it forks a process for each program, waits for its end, and runs no program's code itself.

It holds the control channel, descriptor 0: a socket to the judge that keeps messages apart. A message from the judge is
`.` and a seccomp filter (or nothing), with three descriptors: request, reply and output, made for this program. `serve`
then returns in a new process, which no longer holds the channel. When that process has ended, the answer is
`{"ended": exit code, "clean": bool}`. Clean, which only a program with a filter can be: no other process is left in the
jail, and what a process of the same user could change of this one or of the work folder is as it was.

The judge may then send the next program. It does so only where the filter is `seccomp.plain_filter` and all else was in
order too (`lightningrl.sandbox.session.running`); otherwise it kills the jail. When the judge closes the channel, or
dies, this process ends, and with it, where it is the first of a namespace, everything in the jail.

Nothing here depends on how many programs came before: each is forked from the same state.
"""

import _socket  # `socket` itself would cost each jail some milliseconds for constants that nobody needs here
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
"""__WALL: children that were made with another exit signal than SIGCHLD count too."""
_LOOK_AGAIN_MS = 10
"""Where the kernel (before 5.3) has no descriptors for processes."""
_LIMITS = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prepared: dict[bytes, tuple[Any, bytes]] = {}


class Program(NamedTuple):
    """What a program's process is given."""

    filter: bytes | None
    """The seccomp program to install before candidate code runs, as `_prepare` gives it; None: there is none."""
    request: int
    reply: int
    output: int
    """Descriptors."""
    null: int
    """/dev/null; it is on 0 and 1 as well."""


def serve() -> Program:
    """Returns once for each program, in a process of its own, and never in this one."""
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _CONTROL)
    # The first process of a namespace gets no signal from inside that it does not handle, and Python handles this one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    at_first = None
    while True:
        program_filter, descriptors = _receive(control)
        prepared = _prepare(program_filter) if program_filter else None
        if program_filter and at_first is None:
            at_first = _state()
        child = os.fork()
        if child == 0:
            return _leave(control, prepared, descriptors)
        code = _end_of(child, control)
        is_clean = bool(program_filter) and _is_alone() and _state() == at_first
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            control.send(b'{"ended":%d,"clean":%s}' % (code, b"true" if is_clean else b"false"))
        except OSError:
            os._exit(0)  # the judge is gone


def install(program: Program) -> None:
    """The filter, on this process and for good; the level has set no_new_privs."""
    if program.filter is not None and _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program.filter, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter of system calls cannot be installed")


def _prepare(program_filter: bytes) -> bytes:
    """`struct sock_fprog`; the instructions stay where it says, for all processes to come."""
    if program_filter not in _prepared:
        instructions = ctypes.create_string_buffer(program_filter, len(program_filter))
        address = ctypes.addressof(instructions)
        _prepared[program_filter] = instructions, struct.pack("@HP", len(program_filter) // 8, address)
    return _prepared[program_filter][1]


def _leave(control: _socket.socket, prepared: bytes | None, descriptors: list[int]) -> Program:
    """In the new process: nothing of the parent's stays but what is read-only memory to both."""
    null = os.open("/dev/null", os.O_RDWR)
    control.detach()
    os.dup2(null, _CONTROL)
    os.dup2(null, 1)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.collect()  # its counters begin at nought in each program, whatever the parent has made since `freeze`
    return Program(prepared, *descriptors, null=null)


def _receive(control: _socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = control.recvmsg(_MESSAGE_BYTES, _socket.CMSG_SPACE(3 * 4))
    if not data:
        os._exit(0)  # the judge is gone
    return data[1:], list(memoryview(ancillary[0][2]).cast("i"))


def _end_of(child: int, control: _socket.socket) -> int:
    """The exit code of the process when it has ended; a signal's number is negative. Ends with the judge."""
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
                os._exit(0)  # the judge says nothing before the end: it is gone
    if process is not None:
        os.close(process)
    return os.waitstatus_to_exitcode(status)


def _is_alone() -> bool:
    """Whether this process has no child left. Orphans of the namespace are its children."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG | _WAIT_FOR_ALL_KINDS)[0] == 0:
                return False
        except ChildProcessError:
            return True


def _state() -> tuple[Any, ...]:
    """What a process of the same user might change of this one, and the work folder."""
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
