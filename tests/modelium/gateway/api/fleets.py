"""A fleet with one loaded model, as the admin API shows it."""

from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Deployment,
    Device,
    Drop,
    Fleet,
    LoadSettings,
    Model,
    RuntimeName,
    Traffic,
    Upstream,
)

GPU = Device(
    node="n1", uuid="GPU-1", kind="gpu", index=2, total_bytes=80 * GIB, free_bytes=50 * GIB
)


def fleet(**changes: object) -> Fleet:
    deployment = Deployment(
        model="gpt2",
        version=1,
        runtime=RuntimeName.VLLM,
        devices=(GPU.id,),
        settings=LoadSettings(),
        upstream=Upstream(
            host="127.0.0.1",
            port=1,
            served_name="gpt2",
            apis=frozenset({"openai"}),
            api_key="engine-secret",
        ),
        handle={"key": "handle-secret"},
        started_at=900.0,
        ready_at=950.0,
    )
    model = Model(
        name="gpt2",
        path="/r/gpt2",
        state=ModelState.READY,
        state_since=950.0,
        registered_at=800.0,
        team="prod",
        deployment=deployment,
        traffic=Traffic(qps=1.5, last_request_at=990.0),
        reason="fits on GPU 2",
    ).model_copy(update=changes)
    cold = Model(
        name="cold", path="/r/cold", state=ModelState.UNLOADED, state_since=1.0, registered_at=1.0
    )
    return Fleet(
        at=1000.0,
        revision=7,
        devices=(GPU,),
        models=(model, cold),
        bookings=(Booking(model="gpt2", device=GPU.id, bytes=20 * GIB, resident_bytes=19 * GIB),),
    )


def drop(**changes: object) -> Drop:
    return Drop.model_validate(
        {
            "name": "half.gguf",
            "model": "half",
            "state": "incomplete",
            "path": "/in/half.gguf",
            "since": 900.0,
            "reason": "half.gguf is empty",
            **changes,
        }
    )
