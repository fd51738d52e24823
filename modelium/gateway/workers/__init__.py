"""Several processes that answer clients: the service's side and the workers' side.

The service decides; its workers hold, forward and count requests. Each is connected by a socket of
its own: frames of JSON, in order. What the service's switchboard does goes to every worker's, what
a worker counts comes back in batches.
"""
