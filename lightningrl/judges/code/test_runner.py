"""The test runner: a process that runs a benchmark's own test code, which calls a program in a jail.

Test code is trusted and runs here; the program is not trusted and never runs here. Calls of the entry point leave and
return as plain data, so an `assert` compares real ints and lists by Python's own rules, and no object of the program
influences it. An object that is not plain data stays in the jail and is a `Handle` here: it can be passed back, called
and iterated, it has a truth value and plain attributes, and it equals nothing but itself. An object that equals a plain
value (a named tuple, a member of an IntEnum) is here the value that it had when it crossed, with the object's plain
attributes; passed back, it is the object again.

`lightningrl.judges.code.test_cases` starts it as `python -s -S -P -B test_runner.py` and reuses it. A message is one
line of JSON:

    <- {"setup": code, "tests": [code, ...], "entry_point": name, "seed": text}      one job
    -> {"ask": line for the jail}     <- {"answer": line from the jail, or null when the jail has ended}
    -> {"outcome": {"passed": bool, "published": bool, "message": text}}             after each test
    -> {"done": true, "broken": text, "too_large": bool, "gold_error": text}

If this process runs out of time or memory, its judgement fails and the process is replaced (`worker.py`).
"""

import builtins
import ctypes
import importlib
import json
import os
import random
import sys
from typing import IO, Any

sys.path.insert(0, os.path.abspath(__file__).rsplit(os.sep, 4)[0])

from lightningrl.judges.worker import channels
from lightningrl.sandbox import codec, plain_types

MEMORY_BYTES = 1 << 30


class JailEnded(BaseException):
    """The jail has ended. It is not an Exception, so that test code does not mistake it for one of the program."""


class CandidateError(Exception):
    """The program raised an exception that has no builtin class to raise here."""


class JailProxy:
    """This side of the conversation with the jail. It reads strictly: any invalid answer ends the judgement."""

    def __init__(self, source: IO[str], sink: IO[str], entry_point: str) -> None:
        self._source, self._sink, self._entry_point = source, sink, entry_point
        self._budget = codec.Budget()
        self._handles: dict[int, Handle] = {}
        self.is_over = False
        self.broken, self.is_too_large = "", False
        self.n_requests = 0
        self.last = ""
        """The newest call and its answer in readable form."""
        self.saw_exit = False
        """Whether a call raised SystemExit since this was last set to False."""
        self.compared = False
        """Whether an object of the program was compared since this was last set to False."""

    def call(self, target: "Handle | None", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.ask(op="call", target=target, args=list(args), kwargs=kwargs)

    def ask(self, **operation: Any) -> Any:
        if self.is_over:
            raise JailEnded
        number = os.urandom(8).hex()  # unpredictable, so that an answer written before the request is never accepted
        line = codec.dumps({"id": number, **operation}, refer=_number_of)
        self.n_requests += 1
        send(self._sink, {"ask": line})
        answer = receive(self._source)["answer"]
        if answer is None:
            self.is_over = True
            raise JailEnded
        shown = answer.replace(f'"id":"{number}",', "")  # without what varies from run to run
        self.last = f"{_short(line[line.find('op') - 1 :])} gave {_short(shown)}"
        try:
            return self._read(answer, number)
        except codec.CodecError as error:
            self.broken, self.is_too_large = f"{error}"[:200], isinstance(error, codec.TooLarge)
            self.is_over = True
            raise JailEnded from None

    def _read(self, line: str, number: str) -> Any:
        if not line.isascii():
            raise codec.CodecError("bytes that are not ASCII")
        answer = codec.loads(line, self._budget, self._object)
        if type(answer) is not dict or type(answer.get("id")) is not str or answer["id"] != number:
            raise codec.CodecError("an answer to another request")
        if set(answer) == {"id", "value"}:
            return answer["value"]
        kind, message = answer.get("type"), answer.get("message")
        if set(answer) != {"id", "error", "type", "message"} or type(kind) is not str or type(message) is not str:
            raise codec.CodecError("an answer of another form")
        self.last = f"{self.last.partition(' gave ')[0]} raised {_short(ascii(message))}"
        self.saw_exit = self.saw_exit or kind == "SystemExit"
        raise _exception(kind, message)

    def _object(self, number: int, value: Any = None) -> Any:
        """Returns the stand-in for an object of the program; `value` is the plain value that it equals, if any."""
        handle = self._handles.setdefault(number, Handle(self, number))
        if value is None:
            return handle
        if type(value) not in LIKE_TYPES:
            raise codec.CodecError("an object that equals a value of another kind")
        like = LIKE_TYPES[type(value)](value)
        like._handle = handle
        return like


class Handle:
    """An object in the jail. Its own `__eq__`, `__hash__` and the like are never called."""

    __slots__ = ("_jail", "_number")

    def __init__(self, jail: JailProxy, number: int) -> None:
        object.__setattr__(self, "_jail", jail)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"an object of the program has no attribute {name!r} here")
        return self._jail.ask(op="get", target=self, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._jail.ask(op="set", target=self, name=name, value=value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jail.call(self, args, kwargs)

    def __iter__(self) -> Any:
        return iter(self._jail.ask(op="iter", target=self))

    def __bool__(self) -> bool:
        return self._jail.ask(op="bool", target=self) is True

    def __eq__(self, other: object) -> bool:
        self._jail.compared = True
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return "<an object of the program>"


def _like_type(kind: type) -> type:
    """Returns a subclass of a plain type for stand-ins of the program's objects that equal a value of that type."""

    def attribute(self: Any, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_handle"), name)

    return type(f"Like_{kind.__name__}", (kind,), {"__getattr__": attribute})


LIKE_TYPES = {kind: _like_type(kind) for kind in plain_types.BASES}


class Namespace(dict[str, Any]):
    """The globals of the test code. Missing names are modules of the standard library, else names of the program."""

    def __init__(self, jail: JailProxy) -> None:
        super().__init__(__name__="tests", __builtins__=builtins)
        self._jail = jail

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        if name in sys.stdlib_module_names:
            return importlib.import_module(name)
        return self._jail.ask(op="global", name=name)


def main() -> None:
    source, sink = channels(MEMORY_BYTES)
    sys.set_int_max_str_digits(0)  # the clock bounds long conversions
    while True:
        message = receive(source)
        if "answer" in message:  # to an abandoned judgement
            continue
        # Each job runs in a child: changes of the interpreter by test code end with it.
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
            send(sink, {"done": True, **run(message, source, sink)})
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            os._exit(1)  # the judge treats it as a lost worker


def run(job: dict[str, Any], source: IO[str], sink: IO[str]) -> dict[str, Any]:
    """Runs every test separately in one namespace, sends the outcomes, and returns the last message."""
    jail = JailProxy(source, sink, job["entry_point"])
    random.seed(job["seed"])
    namespace = Namespace(jail)
    passed, _, setup_message = _attempt(job["setup"], "<setup>", namespace, jail)
    if not passed and not jail.n_requests:
        gold_error = f"the setup of the tests fails by itself: {setup_message}"
        return {"broken": jail.broken, "too_large": jail.is_too_large, "gold_error": gold_error}

    def entry(*args: Any, **kwargs: Any) -> Any:
        return jail.call(None, args, kwargs)

    entry.__name__ = entry.__qualname__ = job["entry_point"]
    namespace[job["entry_point"]] = entry
    for number, test in enumerate(job["tests"]):
        if passed:
            outcome = _attempt(test, f"<test {number}>", namespace, jail)
        else:
            outcome = False, False, f"the setup of the tests: {setup_message}"
        send(sink, {"outcome": dict(zip(("passed", "published", "message"), outcome, strict=True))})
    return {"broken": jail.broken, "too_large": jail.is_too_large, "gold_error": ""}


def _attempt(code: str, name: str, namespace: Namespace, jail: JailProxy) -> tuple[bool, bool | None, str]:
    """Returns whether the code ran to its end, whether the published executor would say so, and the error."""
    jail.saw_exit, jail.compared, jail.last, message = False, False, "", ""
    try:
        exec(compile(code, name, "exec", dont_inherit=True), namespace)
    except JailEnded:
        message = "the jail had ended"
    except BaseException as error:  # test code may raise anything; the test then fails
        message = f"{type(error).__name__} {_short(ascii(str(error)))}"
    else:
        # Test code that catches everything must not pass without an answer.
        message = "the jail had ended" if jail.is_over else ""
    if message and jail.last:
        message += f" (last call: {jail.last})"
    published = not jail.is_over and (not message or jail.saw_exit)
    if not published and jail.compared:
        published = None  # in a shared process the object's own `==` would have decided
    return not message, published, message


def _number_of(value: Any) -> int:
    if type(value) in LIKE_TYPES.values():
        value = value._handle
    if type(value) is not Handle:
        raise codec.CodecError(f"the test passes a {type(value).__name__} to the program, which is not plain data")
    return object.__getattribute__(value, "_number")


def _exception(kind: str, message: str) -> Exception:
    """Returns an exception of the same builtin class, but only an Exception, since others could end this process."""
    found = getattr(builtins, kind, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return CandidateError(message)
    try:
        return found(message)
    except TypeError:  # UnicodeDecodeError and similar classes need more arguments
        return CandidateError(message)


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "..."


def send(sink: IO[str], message: dict[str, Any]) -> None:
    sink.write(json.dumps(message) + "\n")
    sink.flush()


def receive(source: IO[str]) -> dict[str, Any]:
    line = source.readline()
    if not line:
        os._exit(0)  # the judge is gone
    return json.loads(line)


if __name__ == "__main__":
    main()
