"""The interface of a judge: batches of responses in, verdicts out. No judge knows rewards or training.

`PooledJudge` has what judges that take long share: threads with a worker process each, and a memory of their verdicts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Protocol

from lightningrl.judges.worker import Worker
from lightningrl.types import Example, Verdict


class Judge(Protocol):
    """A judge decides whether responses answer their examples. Only one `judge` call may run at a time, but a training
    makes its calls, one per group, from another thread than the one that made the judge and that closes it.

    Its constructor takes `workers=n`, the number of processes that it may use at the same time.
    """

    graded: bool
    """Whether RL rewards a verdict's value, a fraction of passed tests, and not just right or wrong."""

    needs_jail: bool
    """Whether it runs model-written programs."""

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """Returns one verdict per (example, response), in order; identical pairs are judged once.

        Responses are arbitrary text up to the first stop token, without special tokens. The status reports a response
        that cannot be judged. A judge that cannot work raises an error; it never scores 0.
        """
        ...

    def close(self) -> None:
        """Frees threads and processes; the judge must not be used afterwards."""
        ...


def check_lengths(examples: Sequence[Example], responses: Sequence[str]) -> None:
    """Raises ValueError unless there is one response for each example."""
    if len(examples) != len(responses):
        raise ValueError(f"found {len(examples)} examples and {len(responses)} responses: expected one of each")


class PooledJudge(ABC):
    """A judge whose jobs have a `key`, which a verdict depends on: equal ones are judged once and remembered."""

    forgotten: tuple[str, ...] = ()
    """The statuses that a loaded machine may have caused: such a job is judged again next time."""

    def __init__(self, workers: int, memo_size: int, make_worker: Callable[[], Worker]) -> None:
        """Makes a worker process for each thread."""
        if workers < 1:
            raise ValueError(f"found {workers} workers: expected 1 or more")
        self._workers = [make_worker() for _ in range(workers)]
        self._idle_workers: SimpleQueue[Any] = SimpleQueue()
        for worker in self._workers:
            self._idle_workers.put(worker)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=type(self).__name__)
        self._memo: dict[Any, Verdict] = {}
        self._memo_size = memo_size

    @abstractmethod
    def _read(self, example: Example, response: str) -> Any:
        """Returns the job with its `key`, or the verdict if there is nothing to judge."""

    @abstractmethod
    def _decide(self, job: Any) -> Verdict:
        """Returns the verdict; it runs in a thread of the pool."""

    def _decide_at_once(self, job: Any) -> Verdict | None:
        """Returns the verdict of a job that takes no time; None: it takes some."""
        return None

    @contextmanager
    def _worker(self) -> Iterator[Any]:
        worker = self._idle_workers.get()
        try:
            yield worker
        except BaseException:  # it may be in the middle of a conversation: the next job gets a new process
            worker.close()
            raise
        finally:
            self._idle_workers.put(worker)

    def close(self) -> None:
        """Waits for running judgements, and ends the worker processes."""
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        check_lengths(examples, responses)
        jobs = [self._read(example, response) for example, response in zip(examples, responses, strict=True)]
        pending: dict[Any, Future[Verdict]] = {}
        for job in jobs:
            if isinstance(job, Verdict) or job.key in self._memo or job.key in pending:
                continue
            if (verdict := self._decide_at_once(job)) is not None:
                self._memo[job.key] = verdict
            else:
                pending[job.key] = self._pool.submit(self._decide, job)
        try:
            self._memo |= {key: future.result() for key, future in pending.items()}
        finally:
            for future in pending.values():
                future.cancel()
        verdicts = [job if isinstance(job, Verdict) else self._memo[job.key] for job in jobs]
        for key in [key for key in pending if self._memo[key].status in self.forgotten]:
            del self._memo[key]
        while len(self._memo) > self._memo_size:
            del self._memo[next(iter(self._memo))]
        return verdicts
