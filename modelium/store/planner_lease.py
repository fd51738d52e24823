"""Which node plans: one at a time, by a lease whose epoch every accepted plan checks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.engine import Connection, Engine

from modelium.errors import NotPlanner, StoreUnavailable
from modelium.store.lease import Lease

logger = logging.getLogger(__name__)

NAME = "planner"

TTL_S = 10.0
"""For which a node plans on without a word: with `LOOK_S`, another one plans 15 s later at most."""

LOOK_S = 2.5
"""Between two renewals, or two looks whether the lease has run out."""


class PlannerLease:
    """Says whether this node plans. Safe to use from several threads.

    With SQLite there is one node, which always does.
    """

    def __init__(self, *, engine: Engine) -> None:
        """Hold nothing yet."""
        self._engine = engine
        self._shared = engine.dialect.name == "postgresql"
        self._lease: Lease | None = None
        self._resigned = False
        self._epoch: int | None = None if self._shared else 0
        self._told: int | None = None
        self._changing = threading.Lock()

    @property
    def epoch(self) -> int | None:
        """Of this node's time as the planner, as far as it knows; ``None``: another node plans."""
        return self._epoch

    @contextmanager
    def sought(self, holder: str, on_change: Callable[[], None]) -> Iterator[None]:
        """Take the lease whenever nobody holds it while the body runs.

        Args:
            holder: tells this process from all others.
            on_change: called on a thread of its own when this node begins or ends to plan.
        """
        if not self._shared:
            yield
            return
        self._lease = lease = Lease(engine=self._engine, name=NAME, holder=holder, ttl_s=TTL_S)
        ended = threading.Event()
        with suppress(StoreUnavailable):
            self._step(lease, on_change)
        seeking = threading.Thread(
            target=self._seek, args=(lease, ended, on_change), name="planner", daemon=True
        )
        seeking.start()
        try:
            yield
        finally:
            ended.set()
            seeking.join()
            if self._epoch is not None:
                self._epoch = self._told = None
                with suppress(StoreUnavailable):  # it runs out by itself
                    lease.release()

    def resign(self) -> None:
        """Plan no more, and let another node do it at once: this one was removed."""
        self._resigned = True
        held, self._epoch = self._epoch, None
        if held is not None and self._lease is not None:
            self._lease.release()

    def check(self, tx: Connection) -> int:
        """Return the epoch that a plan is accepted in; ``tx``: the plan's own transaction.

        Raises:
            NotPlanner: another node plans by now.
        """
        if self._lease is None:
            return self._epoch or 0  # a store that no service has opened, or that one node uses
        epoch = self._epoch
        if epoch is None or not self._lease.is_held(tx):
            with self._changing:  # unless the lease was taken again meanwhile
                self._epoch = None if self._epoch == epoch else self._epoch
            raise NotPlanner("another node plans by now; it decides this, too")
        return epoch

    def _seek(self, lease: Lease, ended: threading.Event, on_change: Callable[[], None]) -> None:
        while not ended.wait(LOOK_S):
            try:
                self._step(lease, on_change)
            except StoreUnavailable as exc:
                logger.warning("the planner's lease is neither taken nor renewed: %s", exc)
            except Exception:  # a node that does not look again would never plan again
                logger.exception("the planner's lease is neither taken nor renewed")

    def _step(self, lease: Lease, on_change: Callable[[], None]) -> None:
        if self._resigned:
            return
        if self._epoch is None or not lease.renew():
            # Nodes that stand by look all the time: they wait for no writer, and none for them.
            taken = lease.others() is None and lease.take() is None
            with self._changing:
                self._epoch = lease.epoch if taken and not self._resigned else None
        # It may have become clear to a plan, too, that another node plans.
        if self._epoch != self._told:
            self._told = self._epoch
            logger.info(
                "another node plans" if self._told is None else "this node plans from now on"
            )
            on_change()
