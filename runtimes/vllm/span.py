"""One model over several nodes: the options and variables of each part (no I/O here).

The parts are vLLM's own: each node runs `vllm serve` with its rank, the first one serves the API,
and torch connects them. Their connections have no authentication.
"""

from __future__ import annotations

from modelium.errors import FailureKind, LoadFailed
from modelium.ports import LoadRequest, Span


def check_devices(request: LoadRequest) -> None:
    """Raise `LoadFailed` unless the devices of this node are its share of what is needed."""
    settings = request.settings
    tensor, pipeline = settings.tensor_parallel_size, settings.pipeline_parallel_size
    nodes = len(request.span.addresses) if request.span else 1
    if len(request.devices) * nodes != tensor * pipeline:
        stages = f" × pipeline_parallel_size {pipeline}" if pipeline > 1 else ""
        over = f" on each of {nodes} nodes" if nodes > 1 else ""
        raise LoadFailed(
            f"tensor_parallel_size {tensor}{stages} needs as many devices, "
            f"not {len(request.devices)}{over}",
            kind=FailureKind.BAD_SETTINGS,
        )


def span_arguments(span: Span) -> list[str]:
    """Return the options of one part; without an API where another part answers."""
    address, port = span.meeting
    arguments = ["--nnodes", str(len(span.addresses)), "--node-rank", str(span.rank)]
    arguments += ["--master-addr", address, "--master-port", str(port)]
    arguments += ["--distributed-executor-backend", "mp"]
    return arguments if span.rank == 0 else [*arguments, "--headless"]


def span_environment(span: Span) -> dict[str, str]:
    """Return the variables that have the parts talk over the interface of the node's address.

    By default gloo takes what the machine's own name resolves to, which may be loopback.
    """
    return {
        "VLLM_HOST_IP": span.own,
        "GLOO_SOCKET_IFNAME": span.interface,
        "NCCL_SOCKET_IFNAME": f"={span.interface}",  # this one, not all that begin so
    }
