"""What shares work among processes: none but this one, joblib on one machine, or Dask on one or many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.extras import need

__all__ = ["Engine", "sharing"]

Engine = Literal["joblib", "dask"]
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

#: How long processes of one machine wait for each other, which is busy where there is much work.
PATIENCE = {f"distributed.comm.timeouts.{name}": "300s" for name in ("connect", "tcp")}
AHEAD = 2  # pieces of work that wait for each worker: it never idles, and few are in memory
RETRIES = 3  # of a piece whose worker died


@contextmanager
@checked(workers=at_least(1))
def sharing(engine: Engine | None, workers: int) -> Iterator[Mapper]:
    """Return a function like `map` whose calls run in other processes; results come in the order of the items.

    With Dask a piece of work whose worker died is done again by another one. Where Dask is told of a cluster
    (`DASK_SCHEDULER_ADDRESS`), its workers are used, and they have to see the same files. Each process has one thread.

    Args:
        engine: what shares the work; None for this process alone.
        workers: processes of this machine.

    Raises:
        MissingPackageError: if the engine is not installed.
        ChildProcessError: if workers died, and others that were given their work too.

    Examples:
        >>> with sharing(None, 1) as mapped:
        ...     list(mapped(abs, [-2, 3]))
        [2, 3]
    """
    if engine is None:
        yield map
    elif engine == "joblib":
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        try:
            with parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
                yield lambda call, items: Parallel(return_as="generator")(delayed(call)(item) for item in items)
        except TerminatedWorkerError:
            raise ChildProcessError("joblib: expected workers that live, got one that died (of memory?)") from None
    else:
        distributed = need("distributed")
        place = need("dask.config").get("scheduler-address", None)
        with ExitStack() as stack:
            if place is None:
                stack.enter_context(need("dask.config").set(PATIENCE))
                cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
                place = stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(place))
            yield lambda call, items: _in_order(client, call, items)


def _in_order(client: Any, call: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield results in the order of the items, of which few are sent ahead."""
    killed, waiting = need("distributed").KilledWorker, deque[Any]()
    ahead = AHEAD * max(1, len(client.scheduler_info()["workers"]))

    def first() -> Any:
        try:
            return waiting.popleft().result()
        except killed as error:
            raise ChildProcessError(f"dask: expected workers that live, got some that died: {error}") from None

    for item in items:
        waiting.append(client.submit(call, item, pure=False, retries=RETRIES))
        if len(waiting) > ahead:
            yield first()
    while waiting:
        yield first()
