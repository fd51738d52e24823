"""A simulated device pool as the `Fleet` that the planner takes, with the traffic so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.replay.policy import DevicePool, split_degree
from agents.replay.traces import ReplayModel, Trace
from modelium.lifecycle import ModelState
from modelium.models import (
    Booking,
    Deployment,
    Device,
    Fleet,
    Footprint,
    LoadSettings,
    Model,
    ModelFormat,
    ModelProfile,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Traffic,
)
from modelium.traffic import TrafficBook

EPOCH = 1_700_000_000.0
"""When a replay begins, in seconds since the epoch; the value does not matter."""

NODE = "replay"
RUNTIME = RuntimeName.VLLM

_NO_TRAFFIC = Traffic()
_RUNTIME = RuntimeStatus(name=RUNTIME, enabled=True, healthy=True)


class SimulatedClock:
    """`ports.Clock` that shows the simulation's time."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start of the trace."""

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return EPOCH + self.now

    def system_time(self) -> float:
        """Return `time`: this clock is not set."""
        return self.time()

    def monotonic(self) -> float:
        """Return the seconds since the start of the trace."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Advance the time."""
        self.now += seconds


class SimulatedFleet:
    """The models of a trace with their traffic, for snapshots of a `DevicePool`."""

    def __init__(self, trace: Trace) -> None:
        """Start without traffic, at the start of ``trace``."""
        self.clock = SimulatedClock()
        self._trace = trace
        # One book per model, so that a snapshot copies the traffic of only the models it shows.
        self._books = [TrafficBook(clock=self.clock) for _ in trace.models]
        # Names in a trace are arbitrary; names of registered models are not.
        self._names = [f"m{i}" for i in range(len(trace.models))]
        self._known: dict[tuple[int, tuple[int, ...]], Model] = {}

    def name(self, model: int) -> str:
        """Return the name that snapshots use for ``model``."""
        return self._names[model]

    @staticmethod
    def model_index(name: str) -> int:
        """Return the index of the model that snapshots call ``name``."""
        return int(name[1:])

    @staticmethod
    def device_indices(ids: Iterable[str]) -> tuple[int, ...]:
        """Return the indices of the devices that snapshots call ``ids``."""
        return tuple(int(each.rpartition("/")[2]) for each in ids)

    def on_arrival(self, model: int) -> None:
        """Count a request, as the gateway does."""
        self._books[model].on_arrival(self._names[model])

    def traffic(self, model: int) -> Traffic:
        """Return the traffic of ``model`` until now."""
        return self._books[model].snapshot().get(self._names[model], _NO_TRAFFIC)

    def snapshot(self, subjects: Sequence[int], pool: DevicePool, *, pending: bool) -> Fleet:
        """Return the loaded models and ``subjects``; ``pending``: requests wait for the latter."""
        idle = frozenset(pool.idle())
        shown = list(dict.fromkeys((*subjects, *pool.loaded())))
        requested = frozenset(subjects) if pending else frozenset[int]()
        not_busy = idle if pending else idle.union(subjects)
        return Fleet.model_construct(
            at=self.clock.time(),
            revision=0,
            models=tuple(
                self.model(m, pool, pending=int(m in requested), busy=m not in not_busy)
                for m in shown
            ),
            bookings=tuple(b for m in shown for b in self._bookings(m, pool)),
            devices=tuple(
                Device.model_construct(
                    node=NODE,
                    uuid=str(d),
                    kind="gpu",
                    index=d,
                    name="",
                    total_bytes=capacity,
                    free_bytes=pool.free(d),
                    processes=(),
                    healthy=True,
                    detail="",
                )
                for d, capacity in enumerate(pool.capacities())
            ),
            runtimes=(_RUNTIME,),
        )

    def model(self, index: int, pool: DevicePool, *, pending: int, busy: bool = False) -> Model:
        """Return one model with its traffic, ``pending`` requests waiting for it."""
        devices = pool.devices_of(index)
        key = (index, devices)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _registered(
                self._names[index], self._trace.models[index], devices, pool.capacities()
            )
        traffic = self.traffic(index)
        if pending or busy:
            traffic = traffic.model_copy(update={"pending": pending, "in_flight": int(busy)})
        return known.model_copy(update={"traffic": traffic})

    def _bookings(self, model: int, pool: DevicePool) -> Iterable[Booking]:
        devices = pool.devices_of(model)
        for device in devices:
            share = -(-self._trace.models[model].bytes // len(devices))
            yield Booking.model_construct(
                model=self._names[model],
                device=f"{NODE}/{device}",
                bytes=share,
                resident_bytes=share,
                releasing=False,
            )


def footprint(profile: ModelProfile, *, tensor_parallel: int = 1, **_given: object) -> Footprint:
    """Return the footprint that a trace gives a model: its bytes, split evenly."""
    share = -(-profile.weight_bytes // tensor_parallel)
    return Footprint.model_construct(
        weights=share,
        kv=0,
        activation=0,
        graphs=0,
        non_torch=0,
        expected=share,
        reserve=share,
        sources={},
    )


def _registered(
    name: str, model: ReplayModel, devices: tuple[int, ...], capacities: Sequence[int]
) -> Model:
    """Return ``model`` as registered long ago, with a known load time."""
    degree = split_degree(model.bytes, capacities) or 1
    return Model(
        name=name,
        path="/",
        state=ModelState.READY if devices else ModelState.UNLOADED,
        state_since=0.0,
        registered_at=0.0,
        priority=model.priority,
        profile=ModelProfile(
            format=ModelFormat.TRANSFORMERS,
            architecture="",
            task=Task.TEXT_GENERATION,
            weight_bytes=model.bytes,
            tensor_parallel_degrees=(degree,),
            runtimes=(RuntimeSupport(runtime=RUNTIME, supported=True),),
        ),
        deployment=Deployment(
            model=name,
            version=1,
            runtime=RUNTIME,
            devices=tuple(f"{NODE}/{d}" for d in devices),
            settings=LoadSettings(tensor_parallel_size=max(1, len(devices))),
            started_at=0.0,
            ready_at=0.0,
            load_s=model.load_s,
        ),
    )
