"""Explicit model control: loads models into a Triton server and unloads them."""

from __future__ import annotations

import asyncio

from modelium.errors import DeadlineExceeded, FailureKind, LoadFailed, Unavailable
from modelium.ports import Clock
from runtimes.loading.failure_kind import Rules, classify
from runtimes.triton import tensorrt
from runtimes.triton.entry import Entry, Repository
from runtimes.triton.server import TritonServer

POLL_S = 0.1
UNLOAD_S = 60.0
"""Added to the grace for requests in flight: unloading took 1.3 s, large models take longer."""
ABORT_S = 30.0
"""How long an abandoned load may go on in the server before the model counts as stuck."""

FAILURES: Rules = (
    (
        FailureKind.UNSUPPORTED,
        r"unable to find backend|unable to find '.*' for model|backend .* (?:is )?not|"
        r"unexpected platform|must specify .*(?:backend|platform)",
    ),
    (FailureKind.BAD_SETTINGS, r"not allowed if polling is enabled"),
    (FailureKind.ENVIRONMENT, r"stub process|ModuleNotFoundError|shared library"),
    (
        FailureKind.BAD_SETTINGS,
        r"instance group .* (?:no GPUs|KIND_GPU|invalid)|KIND_GPU|no GPUs are available",
    ),
    (
        FailureKind.BAD_FILES,
        r"failed to poll|at least one version|protobuf|INVALID_GRAPH|failed:|No such file|"
        r"unexpected (?:inference )?(?:input|output)|configuration (?:expects|supports)|error",
    ),
)

NOT_LISTED = ("", "")
PRECEDENCE = ("", "UNAVAILABLE", "UNLOADING", "LOADING", "READY")
"""Triton's states of a model version; the last one stands for the model."""


class ModelControl:
    """Loads and unloads models of one server and keeps its repository in step with it.

    Models are named as in Triton: by the folders of their entries.
    """

    def __init__(self, *, server: TritonServer, repository: Repository, clock: Clock) -> None:
        """``repository`` is what ``server`` serves."""
        self._server = server
        self._repository = repository
        self._clock = clock
        self.stuck: set[str] = set()
        """Models that hang in the server; only its restart ends that."""

    async def states(self) -> dict[str, tuple[str, str]]:
        """Return the server's state and reason for each model in its index.

        Raises:
            Unavailable: the server does not answer.
        """
        index = await self._server.call("get_model_repository_index")
        found: dict[str, tuple[str, str]] = {}
        for entry in index.models:
            before = found.get(entry.name, NOT_LISTED)
            if PRECEDENCE.index(entry.state) >= PRECEDENCE.index(before[0]):
                found[entry.name] = (entry.state, entry.reason)
        return found

    async def load(self, entry: Entry, *, deadline_s: float) -> None:
        """Load ``entry`` from the repository; after a failure nothing of it stays.

        Raises:
            LoadFailed: the server could not load it, or hangs on it.
        """
        model = entry.name
        override = {} if entry.config is None else {"config": entry.config}
        try:
            await self._server.call("load_model", model, timeout_s=deadline_s, **override)
            state, reason = (await self.states()).get(model, ("", "not in the index"))
            if state != "READY":
                raise LoadFailed(
                    f"Triton loaded {model} but reports it as {state or 'unknown'}: {reason}"
                )
        except DeadlineExceeded as exc:
            await self._abort(model)
            raise LoadFailed(
                f"Triton did not load {model} within {deadline_s:.0f} s",
                kind=FailureKind.STUCK,
            ) from exc
        except LoadFailed as exc:
            # The reason for a failed poll is in the log alone.
            excerpt = self._server.log_excerpt() if "failed to poll" in str(exc) else ""
            refused = tensorrt.refusal(str(exc), self._server.log_lines())
            await self._abort(model)
            if refused:
                raise LoadFailed(
                    f"Triton could not load {model}: {refused}", kind=FailureKind.BAD_FILES
                ) from exc
            if "polling is enabled" in str(exc):
                excerpt = "start Triton with --model-control-mode=explicit"
            raise LoadFailed(
                f"Triton could not load {model}: {exc}" + (f" ({excerpt})" if excerpt else ""),
                kind=classify([str(exc)], None, FAILURES),
            ) from exc
        except BaseException:
            await self._abort(model)
            raise

    async def unload(self, model: str, *, within_s: float) -> None:
        """Unload ``model`` and remove it from the repository.

        Raises:
            Unavailable: the server does not answer, or does not unload it.
        """
        try:
            await self._server.call("unload_model", model, timeout_s=within_s)
        except DeadlineExceeded as exc:
            self.stuck.add(model)
            raise Unavailable(f"Triton hangs on {model}: restart the server") from exc
        except LoadFailed as exc:
            raise Unavailable(f"Triton does not unload {model}: {exc}") from exc
        await self.wait_until_unloaded(model, within_s=within_s)
        await asyncio.to_thread(self._repository.remove, model)

    async def wait_until_unloaded(self, model: str, *, within_s: float = UNLOAD_S) -> None:
        """Wait until the server reports ``model`` as unloaded.

        Raises:
            Unavailable: it does not within ``within_s``.
        """
        deadline = self._clock.monotonic() + within_s
        while True:
            state, _reason = (await self.states()).get(model, NOT_LISTED)
            if state in ("", "UNAVAILABLE"):
                return
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"Triton has not unloaded {model} after {within_s:.0f} s: it is {state}"
                )
            await self._clock.sleep(POLL_S)

    async def _abort(self, model: str) -> None:
        try:
            await self.unload(model, within_s=ABORT_S)
        except (Unavailable, LoadFailed, DeadlineExceeded):
            if await self._server.answers():
                self.stuck.add(model)
