"""Waits until a started engine answers, as long as its start makes progress."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import httpx

from modelium.errors import FailureKind, LoadFailed
from modelium.models.runtimes import RUNTIMES
from modelium.ports import Clock, LoadRequest, Progress
from runtimes.engines.client import EngineClient
from runtimes.engines.instance import EngineInstance
from runtimes.engines.recipe import EngineRecipe
from runtimes.process import proc
from runtimes.process.supervisor import Supervisor

logger = logging.getLogger(__name__)

POLL_S = 0.25
NO_PROGRESS_S = 300.0
"""An engine that neither computes, reads nor enters a new phase for this long is stuck.

A loaded machine was seen to take 138 s for imports alone, which count as computing."""
STALLS = 5.0
"""Part of that time after which other engines may start on its devices: a minute."""
BUSY_SHARE = 0.02
"""Share of a processor that idle waiting loops stay below."""
READ_BYTES_PER_S = 100_000
"""Reading weights from the slowest disk is faster, reading its own pipes slower."""
FIRST_REQUEST_S = 120.0
"""The first request may compile kernels."""
EXIT_S = 1.0
"""An engine whose worker failed first answers the request and then exits."""
TAIL_LINES = 400
"""Lines of the log that are searched for the cause of a failure."""
QUOTED_LINES = 12
"""Lines of the log in an error message."""
ERROR_LINE = re.compile(
    r"(?i)(error|exception|fail|abort|invalid|cannot|unable|not found|unrecognized)"
)

Phase = tuple[str, float | None]


class EngineStart:
    """Follows starts of one recipe's engines until they are ready or have failed."""

    def __init__(
        self,
        *,
        recipe: EngineRecipe,
        supervisor: Supervisor,
        client: EngineClient,
        clock: Clock,
        no_progress_s: float = NO_PROGRESS_S,
    ) -> None:
        """``no_progress_s``: a start without progress for this long is given up."""
        self._recipe = recipe
        self._supervisor = supervisor
        self._client = client
        self._clock = clock
        self._no_progress_s = no_progress_s

    async def wait_until_ready(
        self,
        instance: EngineInstance,
        request: LoadRequest,
        progress: Progress,
        *,
        on_stall: Callable[[], None],
    ) -> None:
        """Return once ``instance`` serves the model on its own port and answered one request.

        ``on_stall`` is called when it has made no progress for a fifth of the time that it may:
        it measures and takes no memory then, so that others need not wait for it.

        Raises:
            LoadFailed: it exited (with the kind and the end of its log), made no progress
                (``stuck``) or took longer than ``request.deadline_s``.
        """
        started = self._clock.monotonic()
        progressed, cpu_s, read = started, 0.0, 0
        phase: Phase = ("starting", None)
        progress(*phase)
        log = self._supervisor.log(request.model)
        while True:
            latest = self._latest_phase(request.model, phase)
            now = self._clock.monotonic()
            if latest != phase:
                phase, progressed = latest, now
                progress(*phase)
            if not self._supervisor.alive(instance.process):
                raise self._exited(instance, request)
            members = self._supervisor.members(instance.process)
            if await self._serves(instance, members):
                if not instance.rank:
                    progress("sending a first request", None)
                    await self._send_first_request(instance, request)
                return
            cpu_now, read_now = _activity(members)
            elapsed = max(now - progressed, POLL_S)
            if cpu_now - cpu_s > BUSY_SHARE * elapsed or read_now - read > (
                READ_BYTES_PER_S * elapsed
            ):
                progressed, cpu_s, read = now, cpu_now, read_now
            if now - progressed > self._no_progress_s / STALLS:
                on_stall()
            if now - progressed > self._no_progress_s:
                raise LoadFailed(
                    f"{request.model} made no progress for {self._no_progress_s:.0f} s in phase "
                    f"“{phase[0]}”: {self._log_excerpt(request.model)}",
                    kind=FailureKind.STUCK,
                )
            if now - started > request.deadline_s:
                raise LoadFailed(
                    f"{request.model} was not ready within {request.deadline_s:.0f} s (last phase: "
                    f"“{phase[0]}”): {self._log_excerpt(request.model)}",
                    kind=FailureKind.STUCK,
                )
            await log.rotate()
            await self._clock.sleep(POLL_S)

    def _latest_phase(self, model: str, phase: Phase) -> Phase:
        for line in self._supervisor.log(model).new_lines():
            phase = self._recipe.phase(line) or phase
        return phase

    async def _serves(self, instance: EngineInstance, members: tuple[int, ...]) -> bool:
        if instance.rank:
            return not await self._client.problem(instance, members)
        # The health check comes first: it refuses other programs on the port, which must not get
        # the key.
        problem = await self._client.health_problem(instance.upstream, members)
        names = None if problem else await self._client.served_names(instance.upstream)
        wanted = instance.upstream.served_name
        if names is not None and wanted not in names:
            raise LoadFailed(
                f"the engine serves {names} instead of {wanted}",
                kind=FailureKind.BAD_SETTINGS,
            )
        return names is not None

    async def _send_first_request(self, instance: EngineInstance, request: LoadRequest) -> None:
        probe = self._recipe.probe(request)
        if probe is None:
            return
        path, body = probe
        try:
            answer = await self._client.post(
                instance.upstream, path, body=body, timeout_s=FIRST_REQUEST_S
            )
            # A 4xx means that the engine takes the model for another task; it works all the same.
            # So does a 501: the server does not offer that kind of request for it.
            unsupported = answer.status_code == httpx.codes.NOT_IMPLEMENTED
            works, outcome = unsupported or not answer.is_server_error, answer.text[:300]
            if unsupported:
                logger.warning("%s is loaded, but %s says: %s", request.model, path, outcome)
        except httpx.HTTPError as exc:
            works, outcome = False, type(exc).__name__
        if not works:
            await self._clock.sleep(EXIT_S)
            if not self._supervisor.alive(instance.process):
                raise self._exited(instance, request)
            lines = self._supervisor.log(request.model).tail(TAIL_LINES)
            raise LoadFailed(
                f"{request.model} started but failed its first request ({outcome}): "
                f"{self._log_excerpt(request.model)}",
                kind=self._recipe.failure(lines, None),
            )

    def _exited(self, instance: EngineInstance, request: LoadRequest) -> LoadFailed:
        lines = self._supervisor.log(request.model).tail(TAIL_LINES)
        code = self._supervisor.exit_code(instance.process)
        kind = self._recipe.failure(lines, code)
        return LoadFailed(
            f"{RUNTIMES[self._recipe.name].label} could not load {request.model} ({kind}, exit "
            f"status {code}): {self._log_excerpt(request.model)}",
            kind=kind,
        )

    def _log_excerpt(self, model: str) -> str:
        """Return the last lines that name an error, or else the last lines, and the log's path."""
        log = self._supervisor.log(model)
        lines = log.tail(TAIL_LINES)
        errors = [line.strip() for line in lines if ERROR_LINE.search(line)] or lines
        return " | ".join(line[:300] for line in errors[-QUOTED_LINES:]) + f" (log: {log.path})"


def _activity(members: tuple[int, ...]) -> tuple[float, int]:
    """Return processor time (s) and bytes read of ``members`` since they started."""
    return proc.cpu_s(members), proc.bytes_read(members)
