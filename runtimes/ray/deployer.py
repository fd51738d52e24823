"""Deploys applications to Ray Serve and deletes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Literal

import httpx

from modelium.errors import DeadlineExceeded, FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.ports import Clock, Progress
from runtimes.process import proc
from runtimes.process.stall_detector import StallDetector
from runtimes.ray.application import Application
from runtimes.ray.client import RayError
from runtimes.ray.connection import Session
from runtimes.ray.failure_message import failure_kind, shorten

POLL_S = 0.25
"""Between two status calls for an application that changes; a call takes a few milliseconds."""
DELETE_S = 30.0
"""How long an application whose replicas were killed may take to disappear."""
NO_ROOM_S = 60.0
"""A replica that Ray could not place for this long waits for resources that will not come: Modelium
has booked them, so nothing is about to release any."""
STALL_S = 300.0
"""A replica that neither reads nor computes for this long is stuck; a stalled disk (NFS) recovers
sooner."""
SOUND: Mapping[str, Literal["loading", "ready"]] = {
    "RUNNING": "ready",
    "DEPLOYING": "loading",
    "NOT_STARTED": "loading",
}
"""Serve's states of an application without problems; in all others it is unhealthy."""


class Deployer:
    """Brings applications of one Serve instance up and down."""

    def __init__(self, *, http: httpx.AsyncClient, clock: Clock) -> None:
        """``http`` calls Serve's proxy; closed by its owner."""
        self._http = http
        self._clock = clock

    async def deploy(self, session: Session, application: Application, progress: Progress) -> None:
        """Deploy ``application`` and wait until Serve's proxy routes to it.

        After a failure or a cancellation nothing of it stays.

        Raises:
            LoadFailed: Serve refused it, it failed, or it is stuck.
            Unavailable: Ray does not answer or has no room for it.
        """
        try:
            await self._apply(session, application, progress)
            await self._wait_until_routed(session, application, progress)
        except BaseException:
            with contextlib.suppress(ModeliumError):
                await asyncio.shield(self._remove(session, application))
            raise

    async def delete(self, session: Session, name: str, *, grace_s: float) -> None:
        """Delete an application of this Modelium's and wait until it and its processes are gone.

        Its replicas are killed after ``grace_s``. An application of others is left alone.

        Raises:
            DeadlineExceeded: it is not gone yet.
            Unavailable: Ray does not answer.
        """
        started, killed = self._clock.monotonic(), False
        processes: dict[int, int | None] = {}
        found = (await session.status()).applications.get(name)
        if found is None or not (found.ours or found.deleting):
            return
        try:
            await session.client.call("delete", name=name)
            while True:
                if found is not None:
                    for pid in found.pids(session.node_ip):
                        processes.setdefault(pid, proc.alive_since(pid))
                elif not any(
                    since is not None and proc.alive_since(pid) == since
                    for pid, since in processes.items()
                ):
                    return
                elapsed = self._clock.monotonic() - started
                if elapsed > grace_s + DELETE_S:
                    raise DeadlineExceeded(
                        f"Ray Serve has not deleted {name} after {elapsed:.0f} s: try again"
                    )
                if elapsed >= grace_s and found is not None and not killed:
                    await session.client.call("kill", name=name)
                    killed = True
                await self._clock.sleep(POLL_S)
                found = (await session.status()).applications.get(name)
        except RayError as exc:
            raise Unavailable(f"Ray Serve could not delete {name}: {shorten(str(exc))}") from exc

    async def _remove(self, session: Session, application: Application) -> None:
        if application.custom:
            await session.client.call("stop_building", name=application.name)
        await self.delete(session, application.name, grace_s=0.0)

    async def _apply(self, session: Session, application: Application, progress: Progress) -> None:
        """Deploy, unless the same application is there already."""
        name = application.name
        present = (await session.status()).applications.get(name)
        if present is not None:
            if not (present.ours or present.deleting):
                raise LoadFailed(
                    f"the Ray cluster has an application {name!r} that is not this Modelium's: "
                    "rename the model",
                    kind=FailureKind.BAD_SETTINGS,
                )
            if present.digest == application.digest and present.status in SOUND:
                return
            await self.delete(session, name, grace_s=0.0)
        progress("deploying", None)
        try:
            if application.custom:
                await self._build(session, application, progress)
            else:
                await session.client.call(
                    "deploy", name=name, options=application.options, spec=application.spec
                )
        except RayError as exc:
            kind = failure_kind(str(exc)) if application.custom else FailureKind.BAD_SETTINGS
            raise LoadFailed(f"Ray Serve refused {name}: {shorten(str(exc))}", kind=kind) from exc

    async def _build(self, session: Session, application: Application, progress: Progress) -> None:
        """Deploy a user's application by a task that runs its code, which may take any time."""
        name, actor = application.name, application.options["ray_actor_options"]
        progress("building the application", None)
        await session.client.call(
            "build",
            name=name,
            import_path=application.spec["import_path"],
            args=application.spec["args"],
            runtime_env=actor["runtime_env"],
            resources=actor.get("resources", {}),
        )
        while not await session.client.call("built", name=name):
            await self._clock.sleep(POLL_S)

    async def _wait_until_routed(
        self, session: Session, application: Application, progress: Progress
    ) -> None:
        name, reported, placed = application.name, "", self._clock.monotonic()
        stall = StallDetector(clock=self._clock)
        while True:
            found = (await session.status()).applications.get(name)
            if found is None:
                raise LoadFailed(f"{name} was deleted from Ray Serve while it was loading")
            if found.status == "RUNNING" and await self._is_routed(session, name):
                return
            message = shorten(found.message)
            if found.status not in SOUND:
                raise LoadFailed(
                    f"Ray Serve could not load {name}: {message}",
                    kind=failure_kind(found.message),
                )
            if message != reported:
                reported = message
                progress(message or "loading", None)
            now = self._clock.monotonic()
            if any(replica.pid for replica in found.replicas):
                placed = now
            elif now - placed > NO_ROOM_S:
                raise Unavailable(f"Ray has no room for {name}: {message}")
            if stall.stalled_s(found.pids(session.node_ip)) > STALL_S:
                raise LoadFailed(
                    f"{name} is stuck: its replica made no progress for {STALL_S:.0f} s",
                    kind=FailureKind.STUCK,
                )
            await self._clock.sleep(POLL_S)

    async def _is_routed(self, session: Session, name: str) -> bool:
        """Whether the proxy knows the route, which it learns a moment after the start.

        The request goes to the proxy, not to the model, whose counters have to count real requests
        only.
        """
        try:
            answer = await self._http.get(f"http://{session.host}:{session.port}/-/routes")
            return answer.status_code == 200 and f"/{name}" in answer.json()
        except (httpx.HTTPError, ValueError):
            return False
