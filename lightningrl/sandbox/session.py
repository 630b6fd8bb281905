"""One jail from start to end: send the request, watch the clock and the volume, read the answers strictly.

The judge's side of `server.py`. It trusts nothing that arrives after the line `ready`, which is sent before candidate
code runs: a line that is not the protocol's ends the judgement as `crashed`. Exit codes and printed text are never a
verdict. A jail that does not get as far as `ready` is our failure, not the candidate's: SandboxUnavailable.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import codec
from lightningrl.sandbox.levels import Launch, Level
from lightningrl.sandbox.limits import CallResult, CallResults, JailStatus, Limits

START_LIMIT_S = 20.0
"""For the jail's start, on a machine however loaded; the candidate's own clock begins after it."""
_TEARDOWN_S = 2.0
_CHUNK_BYTES = 1 << 16
_ENDED = b'{"ended":'

_Ending = Literal["exit", "timeout", "reply_limit", "output_limit"]


@dataclass(slots=True)
class _Exchange:
    reply: bytearray
    output: bytearray
    ending: _Ending = "exit"
    exit_code: int | None = None


def run_session(
    name: str, level: Level, source: str, entry_point: str, calls: Sequence[Sequence[Any]], limits: Limits
) -> CallResults:
    """Judge-side run of one program at one level; see `lightningrl.sandbox.jail.run_calls`."""
    start = time.monotonic()
    encoded_calls = [codec.dumps(list(args)) for args in calls]
    with level.launch(limits) as launch:
        request = {"source": source, "entry_point": entry_point, "calls": encoded_calls}
        request |= {"limits": limits.rlimits() | launch.rlimits, "uid": launch.uid}
        exchange = _exchange(launch, codec.dumps(request).encode("ascii"), limits)
    lines = [line for line in bytes(exchange.reply).split(b"\n")[:-1] if line]
    if not lines:
        text = bytes(exchange.output[-500:]).decode(errors="replace").strip()
        raise SandboxUnavailable(
            f"the jail ({name}) did not start: {text or f'no sign of life within {START_LIMIT_S:.0f} s'} "
            f"(exit code {exchange.exit_code}). {level.remedy[0].upper()}{level.remedy[1:]}."
        )
    answers = lines[1:-1] if lines[-1].startswith(_ENDED) else lines[1:]
    results, is_complete, broken = _read_answers(answers, len(calls))
    status, detail = _status(exchange, is_complete, broken, limits)
    return CallResults(status, results, name, detail, time.monotonic() - start)


def _status(
    exchange: _Exchange, is_complete: bool, broken: ValueError | None, limits: Limits
) -> tuple[JailStatus, str]:
    if exchange.ending == "output_limit":
        return "output_limit", f"printed more than {limits.output_bytes} bytes"
    if exchange.ending == "reply_limit":
        return "output_limit", f"answers of more than {limits.reply_bytes} bytes"
    if isinstance(broken, codec.TooLarge):
        return "output_limit", f"answers {broken}"
    if broken is not None:
        return "crashed", f"the reply channel carried something else: {str(broken)[:200]}"
    if is_complete:
        return "ok", ""
    if exchange.ending == "timeout":
        return "timeout", f"stopped after {limits.wall_s:g} s"
    return "crashed", "the process ended before it had answered every call"


def _read_answers(lines: Sequence[bytes], n_calls: int) -> tuple[tuple[CallResult, ...], bool, ValueError | None]:
    """Results in order, whether all are there, and what was wrong with the first line that is not the protocol's."""
    results: list[CallResult] = []
    budget = codec.Budget()
    broken = None
    for line in lines:
        try:
            answer = codec.loads(line.decode("ascii"), budget)
            if not results and type(answer) is dict and set(answer) == {"load_error"}:
                error = CallResult(error="load_error", message=_text(answer["load_error"]))
                return (error,) * n_calls, True, None
            results.append(_read_call(answer, len(results), n_calls))
        except ValueError as error:  # CodecError and UnicodeDecodeError are ValueErrors
            broken = error
            break
    is_complete = len(results) == n_calls
    results += [CallResult(error="not_run")] * (n_calls - len(results))
    return tuple(results), is_complete, broken


def _read_call(answer: Any, number: int, n_calls: int) -> CallResult:
    if type(answer) is not dict or type(answer.get("call")) is not int or answer["call"] != number:
        raise codec.CodecError(f"expected the answer to call {number}")
    if number >= n_calls:
        raise codec.CodecError("more answers than calls")
    if set(answer) == {"call", "value"}:
        return CallResult(value=answer["value"])
    if set(answer) == {"call", "error", "message"} and answer["error"] in ("exception", "not_plain_data"):
        return CallResult(error=answer["error"], message=_text(answer["message"]))
    raise codec.CodecError("an answer of another form")


def _text(message: Any) -> str:
    if type(message) is not str:
        raise codec.CodecError("a message that is not text")
    return message[:200].encode("ascii", "backslashreplace").decode()


def _exchange(launch: Launch, request: bytes, limits: Limits) -> _Exchange:
    """Start, watch, and leave nothing running. The request is a file in memory: a pipe could fill up and block."""
    exchange = _Exchange(bytearray(), bytearray())
    request_fd = os.memfd_create("request")
    try:
        with open(request_fd, "wb", closefd=False) as file:
            file.write(request)
        os.lseek(request_fd, 0, os.SEEK_SET)
        try:
            process = subprocess.Popen(
                launch.argv, stdin=request_fd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, cwd="/",
                pass_fds=launch.fds, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            remedy = "Free some memory or processes."
            raise SandboxUnavailable(f"cannot start {launch.argv[0]}: {error}. {remedy}") from error
    finally:
        os.close(request_fd)
    with process:
        try:
            _watch(process, exchange, limits)
        finally:
            exchange.exit_code = _end(process)
    return exchange


def _watch(process: subprocess.Popen[bytes], exchange: _Exchange, limits: Limits) -> None:
    """Read both channels until the candidate has ended, the deadline passes or a limit is reached."""
    assert process.stdout is not None and process.stderr is not None
    deadline = time.monotonic() + START_LIMIT_S
    is_running = False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, (exchange.reply, limits.reply_bytes, "reply_limit"))
        selector.register(process.stderr, selectors.EVENT_READ, (exchange.output, limits.output_bytes, "output_limit"))
        while selector.get_map():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                exchange.ending = "timeout"
                return
            for key, _ in selector.select(remaining_s):
                buffer, limit, ending = key.data
                data = os.read(key.fd, _CHUNK_BYTES)
                buffer += data[: limit + 1 - len(buffer)]
                if not data:
                    selector.unregister(key.fileobj)
                elif len(buffer) > limit:
                    exchange.ending = ending
                    return
            if _is_ended(exchange.reply):
                _read_the_rest(process.stderr, exchange, limits)
                return
            if not is_running and b"\n" in exchange.reply:
                is_running, deadline = True, time.monotonic() + limits.wall_s
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        exchange.ending = "timeout"


def _is_ended(reply: bytearray) -> bool:
    return reply.endswith(b"\n") and reply.startswith(_ENDED, reply.rfind(b"\n", 0, -1) + 1)


def _read_the_rest(stream: IO[bytes], exchange: _Exchange, limits: Limits) -> None:
    """What was printed before the end and is still in the pipe, so that the output limit does not depend on timing."""
    os.set_blocking(stream.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while len(exchange.output) <= limits.output_bytes and (data := os.read(stream.fileno(), _CHUNK_BYTES)):
            exchange.output += data
    if len(exchange.output) > limits.output_bytes:
        exchange.ending = "output_limit"


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the jail if it still runs; its exit code.

    The level's command keeps the namespace's first process as its child. That one is killed first, and everything in
    the namespace dies with it; then the command collects it and ends. Killed from above it would become an orphan.
    """
    if process.poll() is None:
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        _wait_for_silence(process)
        process.kill()
    return process.wait()


def _wait_for_silence(process: subprocess.Popen[bytes]) -> None:
    """After the kill, wait until the last holder of the channels, the level's command among them, is gone."""
    assert process.stdout is not None and process.stderr is not None
    deadline = time.monotonic() + _TEARDOWN_S
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (remaining_s := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(remaining_s):
                if not os.read(key.fd, _CHUNK_BYTES):
                    selector.unregister(key.fileobj)
