"""Inside the jail: load a candidate program, make the calls asked for, answer with plain data.

Started by a level as `python -s -S -P -B server.py` with the request on descriptor 0, the reply on 1 and the output
channel on 2. Before any candidate code runs, 0 is /dev/null, 1 is the output channel, limits are set and root is
given up. It knows no expected value and gives no verdict: whatever the candidate does to this process, it can only
change the values that it sends, which the judge outside compares. The judge does not import what runs here.

Reply, one JSON line each: `{"ready": uid}` before candidate code; then `{"call": i, "value": ...}` or
`{"call": i, "error": kind, "message": ...}` in the order of the calls, or one `{"load_error": message}`; and
`{"ended": exit code}` when the candidate's process is no more. The server itself then waits to be killed: were it to
end first, bubblewrap would leave the namespace's first process to the host's init, a zombie for each judgement where
that collects none, as in many containers.
"""

import os
import resource
import sys
import time
import types
from collections.abc import Callable
from typing import Any

MODULE_NAME = "candidate"
"""Not `__main__`: a script's main guard stays shut."""


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import codec

    request = codec.loads(_read_all(0))
    reply_fd = os.dup(1)
    null_fd = os.open("/dev/null", os.O_RDWR)
    os.dup2(null_fd, 0)
    os.dup2(2, 1)
    os.close(null_fd)
    _set_limits(request["limits"])
    _drop_root(request["uid"])

    def reply(line: str) -> None:
        data = line.encode() + b"\n"
        while data:
            data = data[os.write(reply_fd, data) :]

    reply(codec.dumps({"ready": os.getuid()}))
    candidate = os.fork()
    if candidate == 0:
        _serve(request, codec, reply)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    _, status = os.waitpid(candidate, 0)
    # The candidate may have left half a line: the end is on a line of its own, whatever was there.
    reply("\n" + codec.dumps({"ended": os.waitstatus_to_exitcode(status)}))
    while True:
        time.sleep(60)


def _serve(request: dict[str, Any], codec: Any, reply: Callable[[str], None]) -> None:
    try:
        function = _load(request["source"], request["entry_point"])
    except BaseException as error:  # candidate code raises anything, SystemExit too; each is an answer to report
        reply(codec.dumps({"load_error": _describe(error)}))
        return
    for number, args in enumerate(request["calls"]):
        try:
            # Arguments are read anew for each call: a candidate that changes them changes its own copy.
            value = function(*codec.loads(args))
        except BaseException as error:  # as above
            reply(codec.dumps({"call": number, "error": "exception", "message": _describe(error)}))
            continue
        try:
            line = codec.dumps({"call": number, "value": value})
        except BaseException as error:  # not plain data, too large, or no memory left to write it
            line = codec.dumps({"call": number, "error": "not_plain_data", "message": _describe(error)})
        reply(line)


def _load(source: str, entry_point: str) -> Callable[..., Any]:
    module = types.ModuleType(MODULE_NAME)
    sys.modules[MODULE_NAME] = module
    exec(compile(source, "<candidate>", "exec", dont_inherit=True), module.__dict__)
    if entry_point not in module.__dict__:
        raise NameError(f"the program defines no {entry_point!r}")
    function = module.__dict__[entry_point]
    if not callable(function):
        raise TypeError(f"{entry_point!r} is not a function")
    return function


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200].encode("ascii", "backslashreplace").decode()
    except BaseException:  # __str__ is candidate code
        return "an exception that cannot be described"


def _read_all(fd: int) -> str:
    chunks = []
    while chunk := os.read(fd, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks).decode("ascii")


def _set_limits(limits: dict[str, int]) -> None:
    """Lower both the soft and the hard limit, so that candidate code cannot raise it again."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _drop_root(uid: int | None) -> None:
    """Become `uid` for good (None: the level has done it). The process must not be root afterwards."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise PermissionError("the jail still runs as root")


if __name__ == "__main__":
    main()
