"""A worker's process: ``python -m modelium.gateway.worker CHANNEL LISTENER``, of the service.

The arguments are descriptors: of its connection to the service and of the socket that it serves.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import socket
import sys

import uvloop

from modelium.gateway.workers.process import Worker

_PR_SET_PDEATHSIG = 1


async def _run(channel: int, listener: int) -> None:
    worker = Worker(listener=socket.socket(fileno=listener))
    await asyncio.get_running_loop().create_unix_connection(
        lambda: worker.channel, sock=socket.socket(fileno=channel)
    )
    gc.collect()
    gc.freeze()
    await worker.run()


def main() -> None:
    """Run until the service ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the service, which stops us
    # Not to be in the way of the next service, even while this one is stopped (SIGSTOP).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    uvloop.run(_run(int(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
