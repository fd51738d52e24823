"""What clients are told of an error."""

from __future__ import annotations

import pytest

from modelium.gateway.problems import for_clients


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "m: quarantined after 5 failed attempts; run `modelium retry m`. The last failure: "
            "vLLM could not load m (oom, exit status 1): CUDA out of memory | File "
            '"/opt/venv/lib/v.py", line 3 (log: /var/lib/my models/state/vllm/m.log)',
            "m: quarantined after 5 failed attempts; run `modelium retry m`. The last failure: "
            'vLLM could not load m (oom, exit status 1): CUDA out of memory | File "…", line 3',
        ),
        ("put /models/repo/m/1 back, or drop it again", "put … back, or drop it again"),
        ("config=/etc/a.d/b: bad, '/srv/x/'", "config=…: bad, '…'"),
        ("the connection broke: see /state/ray/child.log", "the connection broke: see …"),
        # What clients may use or know stays.
        ("m has no /v1/chat/completions; it has /rerank and /v2/models/m/infer",) * 2,
        ("m of 3/4, and/or a/b/c: https://host/a/b is down, 5 GB/s / 2",) * 2,
    ],
)
def test_clients_are_told_reasons_and_no_paths_of_this_machine(message: str, told: str) -> None:
    assert for_clients(message) == told
