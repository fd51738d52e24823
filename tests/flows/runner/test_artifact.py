"""What run pages show of a stage's report."""

from __future__ import annotations

from flows.runner.artifact import artifact_of
from modelium.models import (
    Candidate,
    Decision,
    Load,
    Plan,
    Report,
    RuntimeName,
    Trigger,
    Unload,
)
from modelium.stages.decide import report


def test_a_decision_shows_its_actions_and_why_candidates_lost() -> None:
    plan = Plan(
        author="rules",
        trigger=Trigger.INGEST,
        subject="gpt2",
        actions=(
            Unload(model="old", reason="makes room for gpt2"),
            Load(
                model="gpt2", runtime=RuntimeName.VLLM, devices=("n/GPU-1",),
                reserve={"n/GPU-1": 7}, reason="fits after old left",
            ),
        ),
        candidates=(
            Candidate(runtime=RuntimeName.VLLM, devices=("n/GPU-1",), evicts=("old",)),
            Candidate(runtime=RuntimeName.TRITON, lost="cannot serve <i>it</i> | at all"),
        ),
    )  # fmt: skip
    decision = Decision(id="d1", at=1.0, plan=plan, snapshot_digest="x")
    key, text = artifact_of(report(decision, "gpt2"))
    assert key == "decide-gpt2"
    lines = text.splitlines()
    assert lines[0] == "# decide: load"
    assert "| author | rules |" in lines
    (unload,) = [line for line in lines if line.startswith("| unload |")]
    assert "makes room for gpt2" in unload
    (lost,) = [line for line in lines if "cannot serve" in line]
    assert "\\<i\\>it\\</i\\> \\| at all" in lost, "what strangers wrote has no markup"
    assert lost.count("|") - lost.count("\\|") == lines[lines.index("## candidates") + 2].count("|")
    assert "## actions" in lines


def test_an_empty_report_is_a_heading_and_no_table() -> None:
    key, text = artifact_of(Report(stage="evict", outcome="nothing"))
    assert (key, text.strip()) == ("evict-fleet", "# evict: nothing")
