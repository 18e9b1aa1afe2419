"""A process pool for the extraction."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from slimclr.errors import UserError
from slimclr.workers import starting_workers

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """As the built-in `map` of one iterable."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """Results in the order of the items."""


@contextmanager
def workers(jobs: int) -> Iterator[Map]:
    """A `map` over processes that keeps the order and runs only a little ahead of the consumer."""
    if jobs < 1:
        raise UserError(f"jobs is {jobs}; set it to 1 or more")
    if jobs == 1:
        yield map
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, context) as pool:
        with starting_workers():  # all of them, with the first task
            pool.submit(int).result()

        def run(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
            waiting: deque[Future[R]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield run
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
