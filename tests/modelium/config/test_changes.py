"""A changed configuration takes effect where it can, and names what needs a restart."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.config import Config
from modelium.config.changes import LIVE, changes, merged
from modelium.config.lookup import find


def config(**sections: Any) -> Config:
    return Config.model_validate(sections)


@pytest.mark.parametrize("path", LIVE, ids=".".join)
def test_every_live_field_exists(path: tuple[str, ...]) -> None:
    assert find(path) is not None


def test_what_is_live_is_merged_and_the_rest_stays() -> None:
    running = config(gateway={"port": 8000}, orchestration={"policies": {"allow_pickle": False}})
    wanted = config(
        gateway={"port": 8001, "aliases": {"chat": "gpt2"}},
        orchestration={"node": "other", "policies": {"allow_pickle": True}},
        models={"gpt2": {"pinned": True}},
    )
    made = merged(running, wanted)
    assert made.gateway.port == 8000
    assert made.orchestration.node == running.orchestration.node
    assert made.orchestration.policies.allow_pickle
    assert made.gateway.aliases == {"chat": "gpt2"}
    assert made.models["gpt2"].pinned


def test_changes_are_named_field_by_field() -> None:
    running = config(gateway={"port": 8000}, models={"gone": {"team": "a"}})
    wanted = config(
        gateway={"port": 8001, "aliases": {"chat": "gpt2"}},
        orchestration={"policies": {"always_loaded": ["b", "a"]}},
        models={"gpt2": {"pinned": True}},
    )
    assert [str(change) for change in changes(running, wanted)] == [
        'orchestration.policies.always_loaded: [] → ["a", "b"]',
        "gateway.port needs a restart: still 8000",
        "gateway.aliases.chat: not set → gpt2",
        "models.gone.team: a → not set",
        "models.gpt2.pinned: false → true",
    ]


def test_secrets_are_not_shown() -> None:
    running = config(gateway={"token": "old-secret"}, vllm={"environment": {"HF_TOKEN": "hf_1"}})
    wanted = config(gateway={"token": "new-secret"}, vllm={"environment": {"HF_TOKEN": "hf_2"}})
    shown = [f"{change} {change.wanted}" for change in changes(running, wanted)]
    assert shown == [
        "vllm.environment.HF_TOKEN needs a restart: still (hidden) (hidden)",
        "gateway.token needs a restart: still (hidden) (hidden)",
    ]


def test_nothing_has_changed() -> None:
    assert changes(config(), config()) == []
