"""The HTTP server: data plane, admin API, webhook, metrics and status page.

Nothing on the path of an inference request reads the store or blocks the event loop. Imports go
down: server → api → proxy → access → routes → protocol → connections → problems → asgi.
"""

from modelium.gateway.server import Gateway

__all__ = ["Gateway"]
