# mypy: ignore-errors
"""llama.cpp's server from the `xllamacpp` wheel, with the options of `llama-server`.

For hosts without llama.cpp. tools/llama-server runs it in the environment of
requirements/llama.lock. It supports the options that the driver uses.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import xllamacpp


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", type=int, default=4096)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--embedding", "--embeddings", action="store_true")
    parser.add_argument("--rerank", "--reranking", action="store_true")
    parser.add_argument("--mmproj", default="")
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--ubatch-size", type=int, default=512)
    parser.add_argument("--metrics", action="store_true")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.n_gpu_layers = options.n_gpu_layers
    params.endpoint_metrics = options.metrics
    params.embedding = options.embedding or options.rerank
    params.n_batch, params.n_ubatch = options.batch_size, options.ubatch_size
    if options.rerank:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if options.mmproj:
        params.mmproj.path = options.mmproj
    if options.chat_template_file:
        params.chat_template = options.chat_template_file.read_text()
    if options.threads:
        params.cpuparams.n_threads = options.threads
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
