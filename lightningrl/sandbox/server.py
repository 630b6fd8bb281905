"""The server inside the jail: it loads a candidate program, executes the request, and answers with plain data.

A level starts it as `python -s -S -P -B server.py` with the control channel on descriptor 0 and its error messages on
2. `parent.serve` creates a process for each program; everything below happens in that process. Before any candidate
code runs, limits are set, root is given up, and 0 to 2 are /dev/null, so that what a function prints is dropped. The
server knows no expected value and gives no verdict: whatever the candidate does to its process, it can only change the
values that it sends, which the judge outside compares. The judge does not import this file.

The `mode` in the first line of the request defines what follows the reply line `{"ready": uid}`:

- `calls` and `dialogue`: `{"loaded": true}` or `{"load_error": message, "type": class}`. Each further line of the
  request is an operation with an `id`, answered by `{"id": ..., "value": ...}` or `{"id": ..., "error": kind, "type":
  class, "message": ...}`, where the class is the exception's nearest builtin one. The request of `calls` is complete
  and out of reach before the program is loaded. In a dialogue, objects that are not plain data stay here; they cross as
  numbers, by which the other side can pass them back.
- `script`: the program runs as `__main__`; the rest of the request is its input on 0, and 1 is the reply channel.
"""

import builtins
import os
import resource
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MODULE_NAME = "candidate"
"""Not `__main__`: the main guard of a function program stays closed."""
MAX_OBJECTS = 10_000
"""The number of objects that may stay here in one dialogue."""


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import codec
    import parent

    program = parent.serve()  # returns in the process of each program
    lines = _lines(program.request)
    first = next(lines)
    request = codec.loads(first)
    mode, limits = request["mode"], request["limits"]
    # At some levels the process limit counts a user's other jails too: they must not prevent this start.
    processes = {"NPROC": limits.pop("NPROC")}
    _set_limits(limits)
    _drop_root(request["uid"])
    sys.set_int_max_str_digits(0)  # the clock bounds long conversions
    # Programs use these two, which the omitted module `site` would define.
    builtins.exit = builtins.quit = sys.exit
    sys.argv = ["<candidate>"]
    parent.install(program)

    def reply(line: str) -> None:
        data = line.encode() + b"\n"
        while data:
            data = data[os.write(program.reply, data) :]

    reply(codec.dumps({"ready": os.getuid()}))
    _set_limits(processes)
    os.dup2(program.null, 2)
    os.close(program.null)
    if mode == "script":
        os.lseek(program.request, len(first) + 1, os.SEEK_SET)
        for descriptor, place in ((program.request, 0), (program.reply, 1)):
            os.dup2(descriptor, place)
            os.close(descriptor)
        _load(request["source"], "__main__")
        return  # a normal end of the interpreter, which waits for threads and flushes output
    operations = lines
    if mode == "calls":
        operations = list(lines)
        os.close(program.request)
    _serve(request, operations, codec, reply)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve(request: dict[str, Any], lines: Iterable[str], codec: Any, reply: Callable[[str], None]) -> None:
    try:
        program = _load(request["source"], MODULE_NAME)
        entry = _entry(program, request["entry_point"])
    except BaseException as error:  # candidate code raises anything, SystemExit too; each is an answer to report
        reply(codec.dumps({"load_error": _describe(error), "type": _builtin_class(error)}))
        return
    reply(codec.dumps({"loaded": True}))
    objects = _Objects()
    refer = (objects.object_of, objects.number_of) if request["mode"] == "dialogue" else (None, None)
    for place, line in enumerate(lines):
        message, kind = None, "exception"
        try:
            # Each call reads its arguments anew: a candidate that changes them changes its own copy.
            message = codec.loads(line, refer=refer[0])
            value = _perform(message, program, entry)
            kind = "not_plain_data"  # or too large, or no memory left to write it
            answer = codec.dumps({"id": message["id"], "value": value}, refer=refer[1])
        except BaseException as error:  # as above
            number, name = message["id"] if message else place, _builtin_class(error)
            answer = codec.dumps({"id": number, "error": kind, "type": name, "message": _describe(error)})
        reply(answer)


def _perform(message: dict[str, Any], program: dict[str, Any], entry: Callable[..., Any]) -> Any:
    operation = message["op"]
    if operation == "call":
        function = entry if message["target"] is None else message["target"]
        return function(*message["args"], **message["kwargs"])
    if operation == "get":
        return getattr(message["target"], message["name"])
    if operation == "set":
        return setattr(message["target"], message["name"], message["value"])
    if operation == "bool":
        return bool(message["target"])
    if operation == "iter":
        return list(message["target"])
    if message["name"] not in program:
        raise NameError(f"name {message['name']!r} is not defined")
    return program[message["name"]]


class _Objects:
    """Objects that do not cross, by number. They stay alive, so that a number always means the same object."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number_of(self, value: Any) -> int:
        if id(value) not in self._numbers:
            if len(self._objects) == MAX_OBJECTS:
                raise MemoryError(f"more than {MAX_OBJECTS} objects that are not plain data")
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def object_of(self, number: int, value: Any = None) -> Any:
        """Returns the object of a number; `value`, the plain value that the other side has, is not needed here."""
        return self._objects[number]


def _load(source: str, name: str) -> dict[str, Any]:
    """Runs the program as a module of this name, and returns its globals."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "<candidate>", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _entry(program: dict[str, Any], entry_point: str) -> Callable[..., Any]:
    if entry_point not in program:
        raise NameError(f"the program defines no {entry_point!r}")
    function = program[entry_point]
    if not callable(function):
        raise TypeError(f"{entry_point!r} is not a function")
    return function


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200].encode("ascii", "backslashreplace").decode()
    except BaseException:  # __str__ is candidate code
        return "an exception that cannot be described"


def _builtin_class(error: BaseException) -> str:
    """Returns the name of the nearest builtin class of an exception."""
    try:
        names = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return str(next(names, "Exception"))
    except BaseException:  # a metaclass is candidate code
        return "Exception"


def _lines(fd: int) -> Iterator[str]:
    """Yields the lines of the request as they arrive."""
    data = b""
    while chunk := os.read(fd, 1 << 16):
        *lines, data = (data + chunk).split(b"\n")
        yield from (line.decode("ascii") for line in lines)


def _set_limits(limits: dict[str, int]) -> None:
    """Lowers both the soft and the hard limits, so that candidate code cannot raise them again."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _drop_root(uid: int | None) -> None:
    """Changes to `uid` permanently (None: the level has done so). The process must not be root afterwards."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise PermissionError("the jail still runs as root")


if __name__ == "__main__":
    main()
