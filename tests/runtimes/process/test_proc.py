from __future__ import annotations

import os
import socket

from runtimes.process import proc


def test_listening_sockets_are_attributed_to_their_process() -> None:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        port = ours.getsockname()[1]
        assert proc.listens(port, [os.getpid()])
        assert not proc.listens(port, [os.getppid()])
    assert not proc.listens(port, [os.getpid()])
