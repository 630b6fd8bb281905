"""One program and all its calls: send the request, wait, read the answers strictly.

The judge's side of `server.py`'s modes `calls` and `script`. It trusts nothing that arrives after the line `ready`,
which is sent before candidate code runs: a line that is not the protocol's ends the judgement as `crashed`. Exit codes
and printed text are never a verdict. A jail that does not get as far as `ready` is our failure, not the candidate's:
SandboxUnavailable.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox import codec
from lightningrl.sandbox.levels import Launch, Level
from lightningrl.sandbox.limits import CallResult, CallResults, JailStatus, Limits, ScriptResult
from lightningrl.sandbox.process import START_LIMIT_S, JailProcess

_ENDED = b'{"ended":'
_END_LINE = re.compile(rb'\{"ended":(-?\d{1,9})\}')


def run_session(
    name: str, level: Level, source: str, entry_point: str, calls: Sequence[Sequence[Any]], limits: Limits
) -> CallResults:
    """Judge-side run of one program at one level; see `lightningrl.sandbox.jail.run_calls`."""
    start = time.monotonic()
    encoded_calls = [codec.dumps(list(args)) for args in calls]
    with level.launch(limits) as launch:
        request = make_request("calls", source, limits, launch, entry_point=entry_point, calls=encoded_calls)
        with JailProcess(launch, request, limits) as jail:
            jail.advance(lambda: False)
    lines = [line for line in bytes(jail.reply).split(b"\n")[:-1] if line]
    if not lines:
        raise did_not_start(name, level, jail)
    answers = lines[1:-1] if lines[-1].startswith(_ENDED) else lines[1:]
    results, is_complete, broken = _read_answers(answers, len(calls))
    status, detail = _status(jail, is_complete, broken, limits)
    is_lost = status == "crashed" and jail.is_lost
    return CallResults(status, results, name, detail, time.monotonic() - start, is_lost)


def run_script_session(name: str, level: Level, source: str, stdin: str, limits: Limits) -> ScriptResult:
    """Judge-side run of one program with one input; see `lightningrl.sandbox.jail.run_script`."""
    start = time.monotonic()
    with level.launch(limits) as launch:
        request = make_request("script", source, limits, launch) + stdin.encode(errors="surrogatepass")
        with JailProcess(launch, request, limits) as jail:
            jail.advance(lambda: False)
    is_ready, _, end = bytes(jail.reply).partition(b"\n")
    if not is_ready:
        raise did_not_start(name, level, jail)
    status, detail = ending_of(jail, limits)
    ended = _END_LINE.fullmatch(end.strip()) if jail.ending == "exit" else None
    if ended:
        status, detail = "ok", ""
    output = bytes(jail.output[: limits.output_bytes]).decode(errors="replace")
    is_lost = status == "crashed" and jail.is_lost
    return ScriptResult(
        status, output, name, detail, time.monotonic() - start, is_lost, int(ended[1]) if ended else None
    )


def make_request(mode: str, source: str, limits: Limits, launch: Launch, **more: Any) -> bytes:
    """The server's first line, with its newline."""
    rlimits = limits.rlimits() | launch.rlimits
    request = {"mode": mode, "source": source, "limits": rlimits, "uid": launch.uid, **more}
    return codec.dumps(request).encode("ascii") + b"\n"


def did_not_start(name: str, level: Level, jail: JailProcess) -> SandboxUnavailable:
    """For a jail that was left without the line `ready`."""
    text = bytes(jail.output[-500:]).decode(errors="replace").strip()
    return SandboxUnavailable(
        f"the jail ({name}) did not start: {text or f'no sign of life within {START_LIMIT_S:.0f} s'} "
        f"(exit code {jail.exit_code}). {level.remedy[0].upper()}{level.remedy[1:]}."
    )


def ending_of(jail: JailProcess, limits: Limits) -> tuple[JailStatus, str]:
    """Status and a line for people when a jail ended before it had answered."""
    if jail.ending == "output_limit":
        return "output_limit", f"printed more than {limits.output_bytes} bytes"
    if jail.ending == "reply_limit":
        return "output_limit", f"answers of more than {limits.reply_bytes} bytes"
    if jail.ending == "timeout":
        return "timeout", f"stopped after {limits.wall_s:g} s"
    return "crashed", "the process ended before it had answered every call"


def _status(jail: JailProcess, is_complete: bool, broken: ValueError | None, limits: Limits) -> tuple[JailStatus, str]:
    if jail.ending in ("output_limit", "reply_limit"):
        return ending_of(jail, limits)
    if isinstance(broken, codec.TooLarge):
        return "output_limit", f"answers {broken}"
    if broken is not None:
        return "crashed", f"the reply channel carried something else: {str(broken)[:200]}"
    return ("ok", "") if is_complete else ending_of(jail, limits)


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
