"""Events as lines for people."""

from __future__ import annotations

import pytest

from modelium.cli.events import duration, line
from modelium.models import Event


def told(kind: str, model: str | None = "gpt2", **detail: object) -> str | None:
    return line(Event(id=1, at=0.0, kind=kind, model=model, detail=detail))


@pytest.mark.parametrize(
    ("kind", "detail", "expected"),
    [
        ("model.registered", {"version": 2}, "gpt2: registered, version 2"),
        ("model.loading", {"runtime": "vllm", "devices": ["0"]}, "gpt2: loading on vllm, GPU 0"),
        (
            "model.ready",
            {"runtime": "vllm", "devices": ["0"], "load_s": 12.3},
            "gpt2: ready on vllm, GPU 0, 12 s",
        ),
        (
            "model.ready",
            {"runtime": "ray_serve", "devices": ["box/cpu"], "load_s": 1.25},
            "gpt2: ready on ray_serve, CPU, 1.2 s",
        ),
        ("model.evicted", {"reason": "idle for …", "idle_s": 7200}, "gpt2: unloaded, idle 2 h"),
        ("model.evicted", {"reason": "makes room for b"}, "gpt2: unloaded, makes room for b"),
        ("model.failed", {"reason": "out of memory"}, "gpt2: failed, out of memory"),
        ("model.aborted", {"reason": "an operator did"}, "gpt2: aborted, an operator did"),
        ("model.queued", {"reason": "no room"}, "gpt2: queued, no room"),
        ("model.lost", {"reason": "gone"}, "gpt2: lost, to be loaded again: gone"),
        (
            "drop.rejected",
            {"reason": "pickle", "message": "a.bin is a pickle"},
            "drop gpt2: rejected, a.bin is a pickle",
        ),
        ("drop.incomplete", {"missing": "a shard"}, "drop gpt2: incomplete, a shard"),
        ("plan.refused", {"reason": "pinned"}, "gpt2: plan refused, pinned"),
        (
            "model.removing",
            {"by": "the operator", "purge": False},
            "gpt2: being removed, asked for by the operator",
        ),
        (
            "model.removed",
            {"by": "the operator", "versions": [1], "purge": False},
            "gpt2: removed by the operator, files moved to the trash",
        ),
        (
            "version.removed",
            {"by": "rules", "version": 1, "purge": True},
            "gpt2: version 1 removed by rules, files deleted",
        ),
        (
            "model.switched",
            {"version": 2, "was": 1},
            "gpt2: version 2 serves now instead of version 1",
        ),
        ("model.switched", {"version": 2, "was": None}, "gpt2: version 2 serves now"),
        (
            "model.rolled-back",
            {"version": 1, "was": 2, "by": "the operator"},
            "gpt2: back to version 1 from version 2, the operator rolled it back",
        ),
        (
            "model.rolled-back",
            {"version": 1, "was": 2, "reason": "it failed its trial", "decision": "a"},
            "gpt2: back to version 1 from version 2, it failed its trial",
        ),
        ("model.missing", {"path": "/m/gpt2"}, "gpt2: its folder /m/gpt2 has disappeared"),
        ("memory.kept", {"bytes": 5}, "gpt2: memory kept, bytes 5"),
        ("config.invalid", {"problem": "x"}, None),
    ],
)
def test_an_event_is_one_line(kind: str, detail: dict[str, object], expected: str | None) -> None:
    assert told(kind, **detail) == expected


def test_what_concerns_no_model_names_none() -> None:
    assert told("key.issued", None, key="d1ae", name="bob") == "API key of bob issued, d1ae"
    assert told("idle.paused", None, since=1.0) == "idle evictions are paused in Prefect"
    said = told("config.reloaded", None, changed=["a: 1 → 2"], restart=["b needs a restart"])
    assert said == "configuration reloaded: a: 1 → 2; b needs a restart"


def test_control_characters_and_pages_of_text_stay_off_the_console() -> None:
    said = told("model.failed", reason="\x1b[31mred\n\n" + "long " * 200)
    assert said is not None
    assert said.isprintable()
    assert len(said) < 400


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.34, "0.3 s"), (12.4, "12 s"), (300, "5 min"), (3 * 3600, "3 h"), (4 * 86400, "4 days")],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
