"""The HTTP face: data plane, admin API, webhook, metrics and status page.

Nothing on a request's path touches the store or blocks the event loop.
"""

from modelium.gateway.api.admin import Explanation, Operations
from modelium.gateway.server import Gateway

__all__ = ["Explanation", "Gateway", "Operations"]
