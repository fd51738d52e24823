#!/usr/bin/env python3
"""A fake engine process with part of vLLM's and llama.cpp's HTTP APIs, which misbehaves on demand.

Run as ``engine.py serve MODEL --host H --port P --served-model-name N …`` or
``engine.py --model FILE --alias N …``; unknown arguments are ignored. ``fake.json`` in the
model's folder sets its behaviour (see `Behaviour`). It needs only the standard library.
"""

from __future__ import annotations

import gzip
import http.server
import json
import mmap
import multiprocessing
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

OOM_TEXT = (
    "(EngineCore pid=4242) ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "
    "14.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 10.12 GiB is free.\n"
    "RuntimeError: Engine core initialization failed. See root cause above."
)


@dataclass
class Behaviour:
    """The fields of fake.json."""

    start_s: float = 0.0
    """Seconds of start-up; a progress line is printed before."""
    hang: bool = False
    """Whether start-up hangs, without output or progress."""
    ignore_term: bool = False
    fork: int = 0
    """Number of child processes in the same session."""
    escape: bool = False
    """Whether it starts a grandchild in a separate session, whose parent then ends."""
    oom_starts: int = 0
    """Number of first starts that fail with a real out-of-memory message."""
    oom_text: str = OOM_TEXT
    """That message."""
    exit_code: int | None = None
    exit_text: str = ""
    """Printed before the exit with ``exit_code`` during start-up."""
    port_taken_starts: int = 0
    die_after: int | None = None
    """Number of completions after which it dies."""
    sick: bool = False
    """Whether /health answers 503."""
    claims: str | None = None
    """Model name that it reports instead of its own."""
    answer_s: float = 0.0
    fail_requests: bool = False
    """Whether every completion fails with a 500."""
    fail_after: int | None = None
    """Number of completions after which every further one fails with a 500."""
    dies_s: float | None = None
    """Seconds after its first answer at which it dies."""
    garbage_from: int | None = None
    """Number of completions after which the answers to further ones are no HTTP."""
    chunks: int = 3
    """Events of a completion with ``stream``."""
    chunk_s: float = 0.0
    """Pause before each of them."""
    stall_after: int | None = None
    """Number of events after which a stream says nothing more."""
    break_after: int | None = None
    """Number of events after which the connection of a stream is closed."""
    garbage_after: int | None = None
    """Number of events after which a stream continues with bytes that are no chunk."""
    flood_s: float | None = None
    """Seconds between two blocks of 64 KiB that it logs, from its start on."""
    not_offered: bool = False
    """Whether requests get a 501, as llama.cpp answers for what it was not started for."""
    gpu: str | None = None
    gpu_bytes: int = 0
    """Memory that it uses on the GPU ``gpu`` of the fake NVML."""
    shared_memory: bool = False
    """Whether it maps a region of /dev/shm that it never removes."""
    semaphore: bool = False
    """Whether it has a named semaphore, which Python's resource tracker removes."""
    resident_bytes: int = 0
    """Size of its memory."""
    log_bytes: int = 0
    """Size of the log that it writes before it is ready."""
    drip_s: float | None = None
    """Seconds between the bytes of its answers to GET requests, which do not end."""
    gzip_bytes: int = 0
    """Length of its metrics, sent as gzip even to those who want none."""
    endless: bool = False
    """Whether its answers to GET requests do not end."""


class Engine:
    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        model = self.option("--model") or arguments[arguments.index("serve") + 1]
        self.folder = Path(model) if Path(model).is_dir() else Path(model).parent
        file = self.folder / "fake.json"
        known = {field.name for field in fields(Behaviour)}
        said = json.loads(file.read_text()) if file.exists() else {}
        assert set(said) <= known, f"unknown behaviour: {set(said) - known}"
        self.behaviour = Behaviour(**said)
        self.name = self.behaviour.claims or (
            self.option("--served-model-name") or self.option("--alias") or "?"
        )
        self.completed = self.running = 0
        self.asleep = False
        self.lock = threading.Lock()
        self.key = os.environ.get("VLLM_API_KEY") or os.environ.get("LLAMA_API_KEY")

    def option(self, name: str) -> str | None:
        if name not in self.arguments:
            return None
        return self.arguments[self.arguments.index(name) + 1]

    def starts(self) -> int:
        """Record this start with its command line; return the number of starts so far.

        In a sandbox that does not let it write there, each start is the first one.
        """
        try:
            with (self.folder / "starts.jsonl").open("a") as file:
                file.write(json.dumps({"argv": self.arguments, "env": dict(os.environ)}) + "\n")
        except OSError:
            return 1
        return len((self.folder / "starts.jsonl").read_text().splitlines())

    def come_up(self) -> None:
        b = self.behaviour
        starts = self.starts()
        print(f"fake engine {self.name} starting, api_key=hunter2", flush=True)
        if b.ignore_term:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        for _ in range(b.fork):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if b.escape:
            orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', "
            orphan += "'import time; time.sleep(600)'], start_new_session=True)"
            subprocess.run([sys.executable, "-c", orphan], check=True)
        self.take()
        if b.flood_s is not None:
            threading.Thread(target=self.flood, args=(b.flood_s,), daemon=True).start()
        if b.log_bytes:
            print("x" * 99 + "\n" + ("y" * 99 + "\n") * (b.log_bytes // 100), flush=True)
        if starts <= b.oom_starts:
            sys.exit(b.oom_text)
        if starts <= b.port_taken_starts:
            sys.exit("OSError: [Errno 98] Address already in use")
        if b.exit_code is not None:
            print(b.exit_text, flush=True)
            os._exit(b.exit_code)
        while b.hang:
            time.sleep(3600)
        print("Loading safetensors checkpoint shards:  50% Completed | 1/2", flush=True)
        time.sleep(b.start_s)

    def meet(self) -> None:
        """As a part of a model over several nodes: wait for the others; only rank 0 goes on."""
        nodes, rank = int(self.option("--nnodes") or 1), int(self.option("--node-rank") or 0)
        place = (self.option("--master-addr") or "", int(self.option("--master-port") or 0))
        if rank == 0:
            door = socket.create_server(place)
            self.others = [door.accept() for _ in range(nodes - 1)]
            return
        while True:
            try:
                self.first = socket.create_connection(place)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        while True:  # like the real one, it stays when rank 0 is gone
            time.sleep(3600)

    def take(self) -> None:
        """Take the memory and the semaphore that it is to have."""
        b = self.behaviour
        if b.gpu:
            with open(os.environ["FAKE_NVML_TABLE"], "a") as table:
                pid = os.getpid()
                table.write(f"proc\t{b.gpu}\t{pid}\t{b.gpu_bytes}\t{pid}\t{b.gpu_bytes}\n")
        if b.shared_memory:
            region = open(f"/dev/shm/fake-engine-{os.getpid()}", "w+b")  # noqa: SIM115
            region.truncate(4096)
            self.region = mmap.mmap(region.fileno(), 4096)
        if b.semaphore:
            self.semaphore = multiprocessing.get_context("spawn").Semaphore()
            name = self.semaphore._semlock.name  # type: ignore[attr-defined]
            (self.folder / "semaphore").write_text(name)
        self.held = b"x" * b.resident_bytes

    def flood(self, pause_s: float) -> None:
        while True:
            print(("z" * 99 + "\n") * 655, flush=True)
            time.sleep(pause_s)

    def serve(self) -> None:
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                engine.get(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                engine.post(self, body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            request_queue_size = 64

        address = (self.option("--host") or "127.0.0.1", int(self.option("--port") or 0))
        Server(address, Handler).serve_forever()

    def get(self, request: http.server.BaseHTTPRequestHandler) -> None:
        b = self.behaviour
        if b.drip_s is not None or b.endless:
            request.send_response(200)
            request.end_headers()
            while True:  # until the caller is gone, which raises
                request.wfile.write(b"x" if b.drip_s is not None else b"x" * 65536)
                time.sleep(b.drip_s or 0)
        elif b.gzip_bytes and request.path == "/metrics":
            data = gzip.compress(b"#" * b.gzip_bytes)
            request.send_response(200)
            request.send_header("Content-Encoding", "gzip")
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)
        elif request.path == "/health":
            answer(request, 503 if self.behaviour.sick else 200, {})
        elif request.path == "/v1/models":
            allowed = not self.key or request.headers.get("Authorization") == f"Bearer {self.key}"
            answer(request, 200 if allowed else 401, {"data": [{"id": self.name}]})
        elif request.path == "/is_sleeping":
            answer(request, 200, {"is_sleeping": self.asleep})
        elif request.path == "/metrics":
            answer(request, 200, self.metrics())
        else:
            answer(request, 404, {})

    def post(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.partition("?")[0]
        if path in ("/sleep", "/wake_up"):
            self.asleep = path == "/sleep"
            answer(request, 200, {})
            return
        with self.lock:
            self.running += 1
        try:
            self.complete(request, body)
        finally:
            with self.lock:
                self.running -= 1
        if self.behaviour.dies_s is not None and self.completed == 1:
            threading.Timer(self.behaviour.dies_s, os._exit, args=(1,)).start()

    def complete(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        time.sleep(self.behaviour.answer_s)
        with self.lock:
            self.completed += 1
        if self.completed == self.behaviour.die_after:
            os._exit(0)
        b = self.behaviour
        if b.garbage_from is not None and self.completed > b.garbage_from:
            request.wfile.write(b"\x00\xffno HTTP at all\r\n\r\n")
            request.close_connection = True
            return
        failing = b.fail_after is not None and self.completed > b.fail_after
        if b.fail_requests or failing:
            print("RuntimeError: Unsupported CPU attention configuration", flush=True)
            answer(request, 500, {"error": "internal"})
            return
        if self.behaviour.not_offered:
            answer(request, 501, {"error": "This server does not support embeddings"})
            return
        if body and json.loads(body).get("stream"):
            self.stream(request)
            return
        answer(request, 200, {"model": self.name, "choices": [{"text": "ok"}]})

    def stream(self, request: http.server.BaseHTTPRequestHandler) -> None:
        b = self.behaviour
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for number in range(b.chunks):
            if number == b.stall_after:
                time.sleep(3600)
            if number == b.break_after:
                request.close_connection = True
                return
            if number == b.garbage_after:
                request.wfile.write(b"no chunk\r\n" * 3)
                request.close_connection = True
                return
            time.sleep(b.chunk_s)
            chunk(request, f"data: {json.dumps({'choices': [{'text': str(number)}]})}\n\n")
        chunk(request, "data: [DONE]\n\n")
        request.wfile.write(b"0\r\n\r\n")

    def metrics(self) -> str:
        rows = {
            "vllm:num_requests_running": self.running,
            'vllm:request_success_total{finished_reason="stop"}': self.completed,
            "vllm:generation_tokens_total": self.completed * 3,
            "llamacpp:requests_processing": self.running,
            "llamacpp:tokens_predicted_total": self.completed * 3,
        }
        return "".join(f"{name} {value}\n" for name, value in rows.items())


def answer(request: http.server.BaseHTTPRequestHandler, status: int, body: object) -> None:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def chunk(request: http.server.BaseHTTPRequestHandler, text: str) -> None:
    data = text.encode()
    request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    request.wfile.flush()


if __name__ == "__main__":
    fake = Engine(sys.argv[1:])
    fake.come_up()
    if fake.option("--nnodes"):
        fake.meet()
    fake.serve()
