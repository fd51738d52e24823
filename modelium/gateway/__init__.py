"""The HTTP server: data plane, admin API, webhook, metrics and status page.

Nothing on the path of an inference request reads the store or blocks the event loop. Imports go
down: server → api, workers → proxy → access → routes, http_server → protocol → connections →
problems → asgi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelium.gateway.server import Gateway

__all__ = ["Gateway"]


def __getattr__(name: str) -> Any:
    # Late: workers are of this package and need neither FastAPI nor the store.
    if name == "Gateway":
        from modelium.gateway.server import Gateway

        return Gateway
    raise AttributeError(name)
