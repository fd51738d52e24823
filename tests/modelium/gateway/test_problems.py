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
        ("gone (log: /srv/our (old) models/m.log)", "gone"),
        ("gone (log: of a (log: /m.log) at last", "gone (log: of a at last"),
        ("no '/srv/our best models/x y': is it \"/data/a's\"?", "no '…': is it \"…\"?"),
        ("b'/srv/a b/c' or `/opt/a b/c` or '/srv/a", "b'…' or `…` or '…"),
        ("see /srv/our models/m/x.bin again", "see … again"),
        (
            "no ./state/m, ../m/1, .., ~/models or ~ann/m; 'state/x'",
            "no …, …, .., … or …; 'state/x'",
        ),
        ("no './state of mine', '~/models/a b'.", "no '…', '…'."),
        ("at file:///srv/m, file:/srv/m, file://localhost/srv/m/", "at …, …, …"),
        ("'file:///srv/our models/m', 'ipc:///tmp/a'", "'…', '…'"),
        ("ipc:///tmp/a unix:/run/a.sock sqlite:////state/m.db", "… … …"),
        ("sqlite+aiosqlite:///state/m.db: is locked", "…: is locked"),
        (r"C:\Users\ann\m, \\host\share\m and C:/Users/ann", "…, … and …"),
        (r"'C:\Users\ann b\m', '\\host\a b'", "'…', '…'"),
        ("error:/srv/a/b <unknown>:/srv/a/b </srv/a/b>", "error:… <unknown>:… <…>"),
        ("'/rerank' or '/srv/x'", "'/rerank' or '…'"),
        ("gcc -I/opt/venv/include -L/opt/lib/x a.c", "gcc -I… -L… a.c"),
        (
            "'/srv/a/b\nnext' line, '/v1/models' or '/rerank'",
            "'…\nnext' line, '/v1/models' or '/rerank'",
        ),
        # What clients may use or know stays.
        ("'/v1/chat/completions' and 'm/x' of http://host:80/a/b, http://[::1]/a/b and f(x)/g/h",)
        * 2,
        ("it's a 'model' of org/name; either/or, 1/2/3. Or: b/c",) * 2,
        ("m has no /v1/chat/completions; it has /rerank and /v2/models/m/infer",) * 2,
        ("m of 3/4, and/or a/b/c: https://host/a/b is down, 5 GB/s / 2",) * 2,
    ],
)
def test_clients_are_told_reasons_and_no_paths_of_this_machine(message: str, told: str) -> None:
    assert for_clients(message) == told
