"""What may be chosen for a load: by trial plans of a planner whose answers the test sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.llm.load_choices import LoadChoices, RuntimeChoice, load_choices
from agents.llm.what_if import WhatIf, emptied, follows, own_action, unloads
from modelium.models import (
    GIB,
    Load,
    LoadSettings,
    ModelProfile,
    Plan,
    Preference,
    Queue,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Trigger,
    Unload,
)
from modelium.models.advice import RULES_ALONE, Advice
from modelium.policy import Policy, RuntimeRules
from tests.agents.advising import INGEST
from tests.fakes.fleets import fleet, loaded, model, policy, profile

R = RuntimeName
Answer = Callable[[Preference], Load | None]


def load(runtime: RuntimeName = R.VLLM, devices: int = 1, **settings: Any) -> Load:
    names = tuple(f"n/g{i}" for i in range(devices))
    return Load(
        model="new",
        runtime=runtime,
        devices=names,
        settings=LoadSettings(**settings),
        reserve={name: (10 + i) * GIB // 4 for i, name in enumerate(names)},
        reason="",
    )


def what_if(answer: Answer, files: ModelProfile) -> WhatIf:
    def planner(
        question: object, fleet: object, policy: object, advice: Advice = RULES_ALONE
    ) -> Plan:
        found = answer(advice.preferences["new"])
        actions = () if found is None else (found,)
        return Plan(author="rules", trigger=Trigger.INGEST, actions=actions)

    new = model("new", profile=files)
    return WhatIf(question=INGEST, fleet=fleet(new), policy=policy(), planner=planner, model=new)


def follower(most: dict[RuntimeName, int], *, wide: int = 10**9, degrees: int = 99) -> Answer:
    """Loads up to ``most`` tokens with each runtime; beyond ``wide`` on two devices."""

    def answer(wish: Preference) -> Load | None:
        settings = wish.settings
        runtime = wish.runtime
        length = settings.max_model_len or 2048
        if runtime not in most or length > most[runtime]:
            return None
        if settings.tensor_parallel_size > degrees:
            return None
        devices = max(settings.tensor_parallel_size, 2 if length > wide else 1)
        known = {"max_model_len": length, "tensor_parallel_size": devices}
        return load(runtime, devices, **known)

    return answer


def supported(*names: RuntimeName, **given: Any) -> ModelProfile:
    runtimes = tuple(RuntimeSupport(runtime=name, supported=True) for name in names)
    return profile(10, **{"context_length": 20_000, "runtimes": runtimes, **given})


def chosen(
    answer: Answer,
    files: ModelProfile,
    *,
    base: LoadSettings | None = None,
    rules: Policy | None = None,
    healthy: tuple[RuntimeName, ...] = (R.VLLM, R.RAY_SERVE, R.LLAMA_CPP),
) -> LoadChoices | None:
    status = tuple(
        RuntimeStatus(name=n, enabled=True, healthy=n in healthy) for n in R if n != R.TRITON
    )
    new = model("new", profile=files)
    return load_choices(
        what_if(answer, files),
        model=new,
        profile=files,
        fleet=fleet(new, runtimes=status),
        policy=rules or policy(),
        base=base or LoadSettings(),
    )


def test_runtimes_that_can_load_it_now_are_offered_with_what_they_take() -> None:
    files = supported(R.RAY_SERVE, R.VLLM)
    unsupported = RuntimeSupport(runtime=R.LLAMA_CPP, supported=False, reason="no")
    files = files.model_copy(update={"runtimes": (unsupported, *files.runtimes)})
    found = chosen(follower(dict.fromkeys(R, 8192)), files)
    assert found == LoadChoices(
        runtimes=(
            RuntimeChoice(runtime=R.RAY_SERVE, gib_per_device=2.5, devices=1, longest_context=None),
            RuntimeChoice(runtime=R.VLLM, gib_per_device=2.5, devices=1, longest_context=8192),
        ),
        settings={"max_model_len": (2048, 4096, 8192), "tensor_parallel_size": (1,)},
        dtypes=(),
    )


def test_a_runtime_that_is_down_unknown_or_has_no_room_is_passed_over() -> None:
    files = supported(R.TRITON, R.LLAMA_CPP, R.RAY_SERVE, R.VLLM)
    answer = follower({R.TRITON: 9999, R.LLAMA_CPP: 9999, R.VLLM: 2048})
    found = chosen(answer, files, healthy=(R.VLLM, R.RAY_SERVE))
    assert found is not None
    assert [each.runtime for each in found.runtimes] == [R.VLLM]
    assert chosen(follower({}), files) is None


def test_the_memory_is_of_the_fullest_device() -> None:
    answer = follower({R.VLLM: 2048}, wide=0)
    found = chosen(answer, supported(R.VLLM, tensor_parallel_degrees=(1, 2, 4, 8)))
    assert found is not None
    (each,) = found.runtimes
    assert (each.gib_per_device, each.devices) == (2.75, 2)
    assert found.settings["tensor_parallel_size"] == (2, 4)


@pytest.mark.parametrize(
    ("most", "wide", "longest", "base", "expected"),
    [
        (10**9, 10**9, 20_000, None, (2048, 4096, 8192, 16384, 20_000)),
        (10**9, 10**9, 8192, None, (2048, 4096, 8192)),
        (16_383, 10**9, 20_000, None, (2048, 4096, 8192)),
        (10**9, 8192, 20_000, None, (2048, 4096, 8192)),
        (10**9, 10**9, 10**9, None, tuple(2048 * 2**i for i in range(8))),
        (10**9, 10**9, 20_000, 6000, (6000, 12_000, 20_000)),
        (10**9, 10**9, 6000, 6000, (6000,)),
        (10**9, 10**9, None, 6000, ()),
    ],
)
def test_contexts_are_the_rules_and_its_doublings_that_fit_on_as_many_devices(
    most: int, wide: int, longest: int | None, base: int | None, expected: tuple[int, ...]
) -> None:
    files = supported(R.VLLM, context_length=longest)
    fits = follower({R.VLLM: most}, wide=wide)
    tried: list[int] = []

    def answer(wish: Preference) -> Load | None:
        tried.append(wish.settings.max_model_len or 0)
        return fits(wish)

    found = chosen(answer, files, base=LoadSettings(max_model_len=base))
    assert found is not None
    assert found.settings["max_model_len"] == expected
    assert found.runtimes[0].longest_context == max(expected, default=None)
    lengths = [length for length in tried if length]
    assert lengths == sorted(set(lengths)), "none is tried twice"


def test_without_a_context_of_the_rules_the_models_own_is_the_only_one() -> None:
    found = chosen(lambda wish: load(R.VLLM), supported(R.VLLM))
    assert found is not None
    assert found.settings["max_model_len"] == (20_000,)


def test_contexts_of_all_runtimes_are_offered_together() -> None:
    files = supported(R.VLLM, R.LLAMA_CPP)
    found = chosen(follower({R.VLLM: 8192, R.LLAMA_CPP: 2048}), files)
    assert found is not None
    assert found.settings["max_model_len"] == (2048, 4096, 8192)
    assert [each.longest_context for each in found.runtimes] == [8192, 2048]


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        (R.VLLM, 3, (3, 6, 12, 24)),
        (R.LLAMA_CPP, 1, (1, 2, 4, 8)),
        (R.VLLM, None, None),
        (R.RAY_SERVE, 3, None),
    ],
)
def test_sequences_are_doubled_up_to_eight_times_where_there_is_a_context(
    name: RuntimeName, base: int | None, expected: tuple[int, ...] | None
) -> None:
    found = chosen(follower({name: 4096}), supported(name), base=LoadSettings(max_num_seqs=base))
    assert found is not None
    assert found.settings.get("max_num_seqs") == expected
    assert ("tensor_parallel_size" in found.settings) is (name is R.VLLM)


@pytest.mark.parametrize(("degrees", "expected"), [(99, (1, 2)), (1, (1,))])
def test_it_is_split_over_at_most_twice_the_devices_where_that_fits(
    degrees: int, expected: tuple[int, ...]
) -> None:
    files = supported(R.VLLM, tensor_parallel_degrees=(2, 4))
    found = chosen(follower({R.VLLM: 2048}, degrees=degrees), files)
    assert found is not None
    assert found.settings["tensor_parallel_size"] == expected


@pytest.mark.parametrize(
    ("name", "operators", "own", "expected"),
    [
        (R.VLLM, "float16", "bfloat16", ("float16", "auto")),
        (R.VLLM, "float16", "float16", ()),
        (R.VLLM, "auto", "bfloat16", ()),
        (R.VLLM, None, "bfloat16", ()),
        (R.RAY_SERVE, "float16", "bfloat16", ()),
    ],
)
def test_the_operators_dtype_and_the_models_own_are_offered_where_they_differ(
    name: RuntimeName, operators: str | None, own: str, expected: tuple[str, ...]
) -> None:
    given: Any = {"dtype": operators} if operators else {}
    rules = policy(runtimes={R.VLLM: RuntimeRules(default_settings=given)})
    found = chosen(follower({name: 4096}), supported(name, dtype=own), rules=rules)
    assert found is not None
    assert found.dtypes == expected


# --- trial plans ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "does"),
    [
        ({}, True),
        ({"runtime": R.VLLM}, True),
        ({"runtime": R.RAY_SERVE}, False),
        ({"max_model_len": 4096}, True),
        ({"max_model_len": 2048}, False),
        ({"max_num_seqs": 8}, True),
        ({"max_num_seqs": 9}, False),
        ({"dtype": "auto"}, True),
        ({"dtype": "float16"}, False),
        ({"tensor_parallel_size": 1}, True),
        ({"tensor_parallel_size": 2}, True),
        ({"tensor_parallel_size": 4}, False),
        ({"runtime": R.RAY_SERVE, "max_model_len": 4096}, False),
    ],
)
def test_a_load_follows_a_wish_in_all_that_it_names(wish: dict[str, Any], does: bool) -> None:
    made = load(R.VLLM, 2, max_model_len=4096, max_num_seqs=8, dtype="auto", tensor_parallel_size=2)
    runtime = wish.pop("runtime", None)
    preference = Preference(runtime=runtime, settings=LoadSettings(**wish))
    assert follows(made, preference) is does
    trial = what_if(lambda asked: made if asked == preference else None, supported(R.VLLM))
    assert trial.load(preference) == (made if does else None)


def test_what_is_no_load_of_the_model_is_no_way_to_load_it() -> None:
    queued: Any = Queue(model="new", reason="")
    other: Any = load().model_copy(update={"model": "other"})
    for action in (queued, other):
        trial = what_if(lambda wish, action=action: action, supported(R.VLLM))  # type: ignore[misc]
        assert trial.load(Preference()) is None
        assert not trial.splits(1)


def test_a_split_is_tried_with_vllm() -> None:
    asked: list[Preference] = []

    def answer(wish: Preference) -> Load | None:
        asked.append(wish)
        return load(R.VLLM, 2, tensor_parallel_size=2)

    trial = what_if(answer, supported(R.VLLM))
    assert (trial.splits(2), trial.splits(4)) == (True, False)
    assert asked == [
        Preference(runtime=R.VLLM, settings=LoadSettings(tensor_parallel_size=n)) for n in (2, 4)
    ]


def test_an_emptied_fleet_has_the_model_alone_and_all_memory_free() -> None:
    full = fleet(loaded("a", "n/g0", gib=60), foreign_gib=5)
    new = model("new")
    alone = emptied(full, new)
    assert (alone.at, alone.revision, alone.runtimes) == (full.at, full.revision, full.runtimes)
    assert (alone.models, alone.bookings) == ((new,), ())
    assert [(d.id, d.free_bytes) for d in alone.devices] == [
        ("n/g0", 80 * GIB),
        ("n/g1", 80 * GIB),
    ]


def test_the_action_on_a_model_and_the_unloads_are_found() -> None:
    out = Unload(model="a", reason="")
    plan = Plan(author="x", trigger=Trigger.INGEST, actions=(out, load()))
    assert own_action(plan, "new") == load()
    assert own_action(plan, "b") is None
    assert unloads(plan) == {"a"}
