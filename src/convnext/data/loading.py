"""Running a function over a stream of work in loader processes, in order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")
R = TypeVar("R")
_MAX_WORKERS = 16


class _Failure(NamedTuple):
    """A user's mistake met in a loader process, to be raised as one message in the main process."""

    error: type[Exception]
    message: str


class _Work(Dataset[Any], Generic[T, R]):
    def __init__(self, function: Callable[[T], R]) -> None:
        self.function = function

    def __getitem__(self, item: T) -> R | _Failure:
        try:
            return self.function(item)
        except OSError as error:
            return _Failure(OSError, str(error))
        except ValueError as error:
            return _Failure(ValueError, str(error))


class Loader(Generic[T, R]):
    """`map(function, items)` with read-ahead in `workers` processes; 0 = in this process.

    The processes are started at the first item and kept for further passes. Results come in the
    order of the items, the same for any number of workers. `items` may be endless: it is read only
    as far as there is work for the processes.
    """

    def __init__(
        self, function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 2
    ) -> None:
        self._function = function
        self._items = items
        self._loader: DataLoader[Any] | None = None
        if workers:
            self._loader = DataLoader(
                _Work(function),
                batch_size=None,  # an item is already a whole batch of work
                sampler=items,
                num_workers=workers,
                prefetch_factor=ahead,
                persistent_workers=True,
                collate_fn=_as_is,
                worker_init_fn=_start,
                pin_memory=torch.cuda.is_available(),
                # Its own generator: the loader must not draw from the training loop's.
                generator=torch.Generator(),
            )

    def __iter__(self) -> Iterator[R]:
        if self._loader is None:
            yield from map(self._function, self._items)
            return
        results = iter(self._loader)
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise OSError(
                    "a loader process was ended from outside, most likely for want of memory "
                    "(or of shared memory, /dev/shm); use fewer workers or a smaller micro-batch"
                ) from error
            if isinstance(result, _Failure):
                raise result.error(result.message)
            yield result


def num_workers(wanted: int) -> int:
    """Loader processes for `workers = wanted`: -1 shares the cores among the local processes."""
    if wanted >= 0:
        return wanted
    cores = len(os.sched_getaffinity(0))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MAX_WORKERS, cores // local))


def _as_is(result: R) -> R:
    return result


def _start(_: int) -> None:
    """Let only the main process end this loader process.

    Ctrl-C and a scheduler's SIGTERM reach the whole process group; a loader that died of them would
    break the last step, after which the main process saves. An orphan stops by itself.
    """
    if not torch.cuda.is_available() and hasattr(os, "SCHED_IDLE"):
        # Where the CPU also trains, a loader that takes a core from one of the training threads
        # makes all the others wait for it; in their pauses there is time enough to load.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a loader process has a parent"
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
