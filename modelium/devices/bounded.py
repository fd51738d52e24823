"""An inventory whose driver may hang: each question to it has a bound."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Lock, Thread
from typing import TypeVar

from modelium.errors import Unavailable
from modelium.models import Device
from modelium.ports import DeviceInventory

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_S = 10.0
"""For all devices of a machine."""

FIRST_S = 60.0
"""The same for the first answer: without persistence mode the driver wakes each GPU for seconds."""

SILENT = (
    "NVML does not answer: run `nvidia-smi`; if that hangs as well, reset the GPU or restart the "
    "machine"
)


class BoundedInventory:
    """The devices of another inventory; unhealthy ones while its driver hangs.

    A hanging question is not repeated: the last known devices are returned at once, unhealthy and
    without free memory, until the driver has answered it. The next question is asked again.
    """

    def __init__(
        self,
        *,
        devices: DeviceInventory,
        known: tuple[Device, ...] = (),
        limit_s: float = LIMIT_S,
    ) -> None:
        """``known``: what ``devices`` has told before; ``limit_s``: for one answer."""
        self._devices = devices
        self._limit_s = limit_s
        self._lock = Lock()
        self._known = known
        self._hanging: set[Future[tuple[Device, ...]]] = set()

    def snapshot(self) -> tuple[Device, ...]:
        """Return the devices within the limit.

        Raises:
            Unavailable: the driver hangs, and was never heard of.
        """
        with self._lock:
            self._hanging = {question for question in self._hanging if not question.done()}
            if self._hanging:
                return self._lost()
        asked = _on_thread(self._devices.snapshot)
        try:
            found = asked.result(self._limit_s)
        except TimeoutError:
            if asked.done():
                raise  # the driver's own error
            return self._given_up(asked)
        with self._lock:
            self._known = found
        return found

    def _given_up(self, asked: Future[tuple[Device, ...]]) -> tuple[Device, ...]:
        logger.error("no answer within %g s: %s", self._limit_s, SILENT)
        with self._lock:
            self._hanging.add(asked)
            return self._lost()

    def _lost(self) -> tuple[Device, ...]:
        if not self._known:
            raise Unavailable(SILENT)
        return tuple(device.lost(SILENT) for device in self._known)


def answered(question: Callable[[], T], *, soon_s: float = LIMIT_S, limit_s: float = FIRST_S) -> T:
    """Return the answer of ``question``, which asks the driver.

    After ``soon_s`` the log says what is waited for.

    Raises:
        Unavailable: there was none within ``limit_s``; its thread waits on.
    """
    asked = _on_thread(question)
    if not wait({asked}, soon_s).done:
        logger.warning(
            "waiting for the NVIDIA driver, up to %g s: without persistence mode it wakes each GPU "
            "first (`nvidia-smi -pm 1` keeps them awake)",
            limit_s,
        )
        if not wait({asked}, limit_s - soon_s).done:
            raise Unavailable(SILENT)
    return asked.result()


def _on_thread(question: Callable[[], T]) -> Future[T]:
    """Ask on a thread of its own: the threads of a pool would be awaited when Python ends."""
    asked: Future[T] = Future()

    def ask() -> None:
        try:
            asked.set_result(question())
        except BaseException as exc:
            asked.set_exception(exc)

    Thread(target=ask, name="devices", daemon=True).start()
    return asked
