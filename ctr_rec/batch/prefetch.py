"""Work done ahead by threads, handed over in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Waited:
    """Seconds the consumer stood still for."""

    seconds: float = 0.0


def in_order(tasks: Iterator[Callable[[], T]], workers: int, ahead: int, waited: Waited) -> Iterator[T]:
    """Results of the tasks in their order, `ahead` of them in the making. workers 0: made when asked for.

    A task that raises does so here, in its turn. Leaving the loop early, by Ctrl-C too, cancels what has not begun.
    """
    if workers == 0:
        for task in tasks:
            start = time.perf_counter()
            result = task()
            waited.seconds += time.perf_counter() - start
            yield result
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="collate")
    pending: deque[Future[T]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(task))
            if len(pending) > ahead:
                yield _wait(pending.popleft(), waited)
        while pending:
            yield _wait(pending.popleft(), waited)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _wait(future: Future[T], waited: Waited) -> T:
    start = time.perf_counter()
    result = future.result()
    waited.seconds += time.perf_counter() - start
    return result


class Ahead(Generic[T]):
    """Makes the next thing in a thread while the present one is used. Iterate with `for`, close when done."""

    def __init__(self, makers: Iterator[Callable[[], T]], threaded: bool) -> None:
        self._makers = makers
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load") if threaded else None
        self._next = self._start()

    def _start(self) -> Callable[[], T] | None:
        maker = next(self._makers, None)
        if maker is None or self._pool is None:
            return maker
        return self._pool.submit(maker).result

    def take(self) -> Callable[[], T]:
        """A call that waits for the next thing; the one after it is begun at once."""
        current = self._next
        assert current is not None, "more was taken than there is"
        self._next = self._start()
        return current

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
