"""Waits for a started engine to answer, as long as it gets on."""

from __future__ import annotations

import contextlib
import re

import httpx

from modelium.errors import FailureKind, LoadFailed
from modelium.models import Upstream
from modelium.ports import Clock, LoadRequest, Progress
from runtimes.engines.recipe import Recipe
from runtimes.process import proc
from runtimes.process.supervisor import Engine, Supervisor

POLL_S = 0.25
NO_PROGRESS_S = 300.0
"""An engine that neither computes, reads nor enters a new phase for this long is stuck.

A loaded machine was seen to need 138 s for imports alone, which count as computing."""
BUSY_SHARE = 0.02
"""Share of a CPU that idle waiting loops stay below."""
READ_BYTES_PER_S = 100_000
"""Reading weights from the slowest disk is faster, reading one's own pipes slower."""
FIRST_REQUEST_S = 120.0
"""The first request may compile kernels."""
DYING_S = 1.0
"""An engine whose worker broke answers first and ends then."""
LAST_WORDS = 12
"""Lines of the log in an error message."""
NOISE = re.compile(r"(?i)(error|exception|fail|abort|invalid|cannot|unable|not found|unrecognized)")


class EngineStart:
    """One start under way."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        supervisor: Supervisor,
        client: httpx.AsyncClient,
        clock: Clock,
        no_progress_s: float = NO_PROGRESS_S,
    ) -> None:
        """``client`` is used for the health checks only."""
        self._recipe = recipe
        self._supervisor = supervisor
        self._client = client
        self._clock = clock
        self._no_progress_s = no_progress_s

    async def ready(
        self, engine: Engine, upstream: Upstream, request: LoadRequest, progress: Progress
    ) -> None:
        """Return once ``engine`` itself answers on its port under the model's name.

        Raises:
            LoadFailed: it died (with the kind and its last words), stopped getting on (`stuck`)
                or took longer than ``request.deadline_s``.
        """
        begun = self._clock.monotonic()
        moved, cpu_s, read = begun, 0.0, 0
        phase: tuple[str, float | None] = ("starting", None)
        progress(*phase)
        while True:
            latest = self._latest_phase(request.model, phase)
            now = self._clock.monotonic()
            if latest != phase:
                phase, moved = latest, now
                progress(*phase)
            if not self._supervisor.alive(engine):
                raise self._died(engine, request)
            members = self._supervisor.members(engine)
            if await self._answers(members, upstream):
                progress("trying a request", None)
                await self._try(engine, upstream, request)
                return
            used, got = _activity(members)
            waited = max(now - moved, POLL_S)
            if used - cpu_s > BUSY_SHARE * waited or got - read > READ_BYTES_PER_S * waited:
                moved, cpu_s, read = now, used, got
            if now - moved > self._no_progress_s:
                raise LoadFailed(
                    f"{request.model} got no further than “{phase[0]}” for "
                    f"{self._no_progress_s:.0f} s: {self._last_words(request.model)}",
                    kind=FailureKind.STUCK,
                )
            if now - begun > request.deadline_s:
                raise LoadFailed(
                    f"{request.model} did not answer within {request.deadline_s:.0f} s "
                    f"(last phase: {phase[0]}): {self._last_words(request.model)}",
                    kind=FailureKind.STUCK,
                )
            await self._clock.sleep(POLL_S)

    def _latest_phase(
        self, model: str, phase: tuple[str, float | None]
    ) -> tuple[str, float | None]:
        for line in self._supervisor.log(model).new_lines():
            phase = self._recipe.phase(line) or phase
        return phase

    async def _answers(self, members: tuple[int, ...], upstream: Upstream) -> bool:
        # Whoever else sits on the port must not be taken for the model, nor be sent the key.
        if not proc.listens(upstream.port, members):
            return False
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
            health = await self._client.get(f"{upstream.base_url}/health")
            if health.status_code != httpx.codes.OK:
                return False
            listed = await self._client.get(
                f"{upstream.base_url}/v1/models",
                headers={"Authorization": f"Bearer {upstream.api_key}"},
            )
            names = [str(entry["id"]) for entry in listed.json()["data"]]
            if listed.status_code == httpx.codes.OK and upstream.served_name not in names:
                raise LoadFailed(
                    f"the engine serves {names} instead of {upstream.served_name}",
                    kind=FailureKind.BAD_SETTINGS,
                )
            return listed.status_code == httpx.codes.OK
        return False

    async def _try(self, engine: Engine, upstream: Upstream, request: LoadRequest) -> None:
        probe = self._recipe.probe(request)
        if probe is None:
            return
        path, body = probe
        try:
            answer = await self._client.post(
                f"{upstream.base_url}{path}",
                json=body,
                headers={"Authorization": f"Bearer {upstream.api_key}"},
                timeout=FIRST_REQUEST_S,
            )
            # 4xx: the engine has another opinion of the task, but it lives.
            sound, said = not answer.is_server_error, answer.text[:300]
        except httpx.HTTPError as exc:
            sound, said = False, type(exc).__name__
        if not sound:
            await self._clock.sleep(DYING_S)
            if not self._supervisor.alive(engine):
                raise self._died(engine, request)
            lines = self._supervisor.log(request.model).tail(400)
            raise LoadFailed(
                f"{request.model} is up but fails its first request ({said}): "
                f"{self._last_words(request.model)}",
                kind=self._recipe.failure(lines, None),
            )

    def _died(self, engine: Engine, request: LoadRequest) -> LoadFailed:
        lines = self._supervisor.log(request.model).tail(400)
        code = self._supervisor.exit_code(engine)
        kind = self._recipe.failure(lines, code)
        return LoadFailed(
            f"{self._recipe.name} could not load {request.model} ({kind}, exit status {code}): "
            f"{self._last_words(request.model)}",
            kind=kind,
        )

    def _last_words(self, model: str) -> str:
        """Pick the lines that name an error, else the last ones, and where the log is."""
        log = self._supervisor.log(model)
        lines = log.tail(400)
        words = [line.strip() for line in lines if NOISE.search(line)] or lines
        return " | ".join(line[:300] for line in words[-LAST_WORDS:]) + f" (log: {log.path})"


def _activity(members: tuple[int, ...]) -> tuple[float, int]:
    entries = [entry for pid in members if (entry := proc.entry(pid))]
    return sum(entry.cpu_s for entry in entries), proc.read_bytes(members)
