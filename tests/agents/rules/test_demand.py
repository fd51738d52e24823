"""Settings that profile, device and demand suggest where the operator says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.demand import dtype_for, roomier, sufficient
from agents.rules.device_groups import device_groups
from agents.rules.placement import MayEvict, any_model, no_model
from agents.rules.plan_builder import Outcome
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    KVLayout,
    LoadSettings,
    Model,
    ModelFormat,
    Preference,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Traffic,
    Trigger,
)
from modelium.policy import Policy, RuntimeRules
from tests.agents.rules.asking import ask
from tests.agents.rules.building import builder
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

R = RuntimeName
V, L, S, T = R.VLLM, R.LLAMA_CPP, R.RAY_SERVE, R.TRITON
EMBEDDING = profile(1, task=Task.EMBEDDING, context_length=512, kv=KVLayout())
GGUF = profile(1, format=ModelFormat.GGUF, context_length=2048, kv_bytes_per_token=1)


def batch(
    runtime: RuntimeName, concurrency: float, said: tuple[str, ...] = (), **given: Any
) -> object:
    found = roomier(
        EMBEDDING.model_copy(update=given), Traffic(concurrency=concurrency), runtime, said
    )
    return found[0].settings["max_num_seqs"] if found else None


@pytest.mark.parametrize(
    ("concurrency", "expected"),
    [(0.0, None), (1.0, None), (1.1, 2), (2.0, 2), (2.1, 4), (4.0, 4), (5.0, 8), (9.0, 8)],
)
def test_llama_cpp_gets_slots_for_the_requests_at_once(
    concurrency: float, expected: int | None
) -> None:
    assert batch(L, concurrency) == expected


def test_only_embeddings_are_batched_on_ray_and_nothing_where_that_could_be_wrong() -> None:
    assert batch(S, 100.0) == 32
    assert batch(S, 3.0) == 4
    assert batch(S, 9.0, task=Task.TEXT_GENERATION) is None
    assert batch(S, 9.0, format=ModelFormat.ONNX) is None
    assert batch(T, 9.0) is None
    assert batch(V, 9.0) is None, "it takes 256 by itself"


def test_what_the_operator_says_stands() -> None:
    assert batch(L, 4.0, ("max_num_seqs",)) is None
    long = GGUF.model_copy(update={"context_length": 9000})
    assert roomier(long, Traffic(), L, ("max_model_len",)) == ()


@pytest.mark.parametrize(
    ("own", "length"),
    [(None, None), (4096, None), (4097, 4097), (16_384, 16_384), (99_999, 16_384)],
)
def test_llama_cpp_gets_a_longer_context_where_memory_is_free(
    own: int | None, length: int | None
) -> None:
    files = GGUF.model_copy(update={"context_length": own})
    expected = ({"max_model_len": length}, f"max_model_len {length}, as memory is free")
    assert roomier(files, Traffic(), L, ()) == ((expected,) if length else ())
    assert roomier(files, Traffic(), V, ()) == ()


def test_nothing_is_added_to_a_cache_of_unknown_size() -> None:
    unknown = GGUF.model_copy(update={"kv_bytes_per_token": None, "context_length": 9000})
    assert roomier(unknown, Traffic(concurrency=4.0), L, ()) == ()
    assert batch(S, 4.0, kv=None) == 4, "a batch of embeddings has none"


def test_each_choice_has_its_reason() -> None:
    long = GGUF.model_copy(update={"context_length": 9000})
    (found,) = roomier(long, Traffic(concurrency=2.5), L, ())
    assert found == (
        {"max_num_seqs": 4, "max_model_len": 9000},
        "max_num_seqs 4, as 3 requests came at once; max_model_len 9000, as memory is free",
    )


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [
        (1, (65_536, 32_768, 16_384, 8192)),
        (4096, (65_536, 32_768, 16_384, 8192)),
        (4097, (65_536, 32_768, 16_384)),
        (8192, (65_536, 32_768, 16_384)),
        (32_768, (65_536,)),
        (32_769, ()),
        (0, ()),
    ],
)
def test_contexts_that_suffice_are_at_least_twice_the_longest_request(
    longest: int, lengths: tuple[int, ...]
) -> None:
    large = profile(1, context_length=131_072)
    found = sufficient(large, Traffic(sized=100, longest_tokens=longest), V, ())
    assert [choice.settings for choice in found] == [{"max_model_len": n} for n in lengths]


@pytest.mark.parametrize(
    ("short", "lengths"),
    [(4096, (16_384, 8192)), (8191, (16_384, 8192)), (8192, (16_384,)), (16_384, ()), (10**8, ())],
)
def test_a_context_that_refused_requests_is_not_chosen_again(
    short: int, lengths: tuple[int, ...]
) -> None:
    large = profile(1, context_length=32_768)
    known = Traffic(sized=100, longest_tokens=3000, short_context=short)
    found = sufficient(large, known, V, ())
    assert [choice.settings for choice in found] == [{"max_model_len": n} for n in lengths]
    assert {choice.why.partition("tokens")[2] for choice in found} <= {
        f", and {short} refused some"
    }


def test_a_context_is_shortened_on_evidence_alone() -> None:
    large, known = profile(1, context_length=16_384), Traffic(sized=100, longest_tokens=3000)
    assert sufficient(large, known, V, ()) == (
        (
            {"max_model_len": 8192},
            "max_model_len 8192 instead of the model’s own 16384: the longest of 100 requests had "
            "3000 tokens",
        ),
    )
    few = known.model_copy(update={"sized": 99})
    assert sufficient(large, few, V, ()) == ()
    assert sufficient(large, known, V, ("max_model_len",)) == ()
    assert sufficient(profile(1, context_length=None), known, V, ()) == ()
    assert sufficient(profile(1, context_length=16_383), known, V, ()) == ()
    assert sufficient(large, known, S, ()) == (), "it takes no context"
    assert sufficient(large, known, L, ()) == (), "its context is short by itself"


@pytest.mark.parametrize(
    ("dtype", "capability", "runtime", "expected"),
    [
        ("bfloat16", (7, 5), V, "float16"),
        ("bfloat16", (8, 0), V, None),
        ("bfloat16", None, V, None),
        ("float16", (7, 5), V, None),
        (None, (7, 5), V, None),
        ("bfloat16", (7, 5), S, None),
    ],
)
def test_a_gpu_without_bfloat16_gets_float16(
    dtype: str | None,
    capability: tuple[int, int] | None,
    runtime: RuntimeName,
    expected: str | None,
) -> None:
    (group,) = device_groups(on(fleet(), capability=capability, name="Tesla T4").devices)
    found = dtype_for(profile(1, dtype=dtype), runtime, group)
    assert (found and found.settings) == (expected and {"dtype": expected})
    if found:
        assert found.why == "dtype float16: Tesla T4 has no bfloat16"


@pytest.mark.parametrize(
    "architecture", ["Gemma2ForCausalLM", "Gemma3ForConditionalGeneration", "Glm4ForCausalLM"]
)
def test_what_vllm_refuses_in_float16_gets_float32(architecture: str) -> None:
    (group,) = device_groups(on(fleet(), capability=(7, 5), name="Tesla T4").devices)
    found = dtype_for(profile(1, dtype="bfloat16", architecture=architecture), V, group)
    assert found is not None
    assert (found.settings, found.why) == (
        {"dtype": "float32"},
        "dtype float32: Tesla T4 has no bfloat16",
    )


def on(world: Fleet, *, capability: tuple[int, int] | None, name: str = "T4") -> Fleet:
    devices = tuple(
        d.model_copy(update={"compute_capability": capability, "name": name}) for d in world.devices
    )
    return world.model_copy(update={"devices": devices})


# --- in plans --------------------------------------------------------------------------------


KV = 1 << 20
"""Bytes per token."""


def long(**given: Any) -> Model:
    """Return a model of 10 GiB that takes 64 GiB more for one request of full length."""
    files = profile(10, context_length=65_536, kv_bytes_per_token=KV)
    return model("a", **{"profile": files, **given})


SHORT = Traffic(sized=200, longest_tokens=3000, first_request_at=NOW - 9, pending=1)


@pytest.mark.parametrize("evicting", [any_model, no_model])
def test_the_longest_context_that_suffices_and_spares_an_eviction_is_taken(
    evicting: MayEvict,
) -> None:
    wanted = long(traffic=SHORT)
    some = builder(fleet(wanted, loaded("x", "n/g0", gib=40), gpus=1), about="a")
    assert some.load(wanted, may_evict=evicting) is Outcome.PLACED
    (load,) = some.plan().actions
    assert load.reason == (
        "vllm on n/g0, 26.00 GiB reserved; max_model_len 16384 instead of the model’s own 65536: "
        "the longest of 200 requests had 3000 tokens"
    )


def test_the_full_context_is_kept_where_it_costs_nobody_his_place() -> None:
    world = fleet(long(traffic=SHORT), gpus=1, gib=90)
    (load,) = ask(world, Trigger.DEMAND, "a").actions
    assert load.reason == "vllm on n/g0, 74.00 GiB reserved"


def test_without_evidence_a_full_context_evicts_as_before() -> None:
    unknown = Traffic(first_request_at=NOW - 9, pending=1)
    world = fleet(long(traffic=unknown), loaded("x", "n/g0", gib=40), gpus=1, gib=90)
    plan = ask(world, Trigger.DEMAND, "a")
    assert [a.action for a in plan.actions] == ["unload", "load"]
    assert plan.loads[0].reason == "vllm on n/g0, 74.00 GiB reserved; evicts x"


def test_the_shorter_context_is_taken_where_it_evicts_less() -> None:
    others = loaded("x", "n/g0", gib=40), loaded("y", "n/g0", gib=34)
    world = fleet(long(traffic=SHORT), *others, gpus=1, gib=90)
    plan = ask(world, Trigger.DEMAND, "a")
    assert len(plan.unloads) == 1
    assert plan.loads[0].settings.max_model_len == 32_768


def test_what_an_advisor_chose_is_not_shortened() -> None:
    wanted = Preference(settings=LoadSettings(max_model_len=65_536))
    world = fleet(
        long(traffic=SHORT, preference=wanted), loaded("x", "n/g0", gib=40), gpus=1, gib=90
    )
    plan = ask(world, Trigger.DEMAND, "a")
    assert [a.action for a in plan.actions] == ["unload", "load"]


def llama(by_hand: dict[str, Any] | None = None) -> Policy:
    return policy(runtimes={L: RuntimeRules(default_settings=by_hand or {})})


def served(name: str = "a", gib: float = 1, **given: Any) -> Model:
    files = profile(
        gib,
        format=ModelFormat.GGUF,
        context_length=32_768,
        kv_bytes_per_token=KV,
        runtimes=(RuntimeSupport(runtime=L, supported=True),),
    )
    fields = {"profile": files, "traffic": Traffic(concurrency=4.0)} | given
    return model(name, **fields)


def llamas(*models: Model, **given: Any) -> Fleet:
    status = RuntimeStatus(name=L, enabled=True, healthy=True)
    return fleet(*models, gpus=1, runtimes=(status,), **given)


def test_more_than_the_default_is_taken_in_free_memory() -> None:
    plan = ask(llamas(served()), Trigger.INGEST, "a", llama())
    (load,) = plan.loads
    assert (load.settings.max_num_seqs, load.settings.max_model_len) == (4, 16_384)
    assert load.reason == (
        "llama_cpp on n/g0, 17.00 GiB reserved; max_num_seqs 4, as 4 requests came at once; "
        "max_model_len 16384, as memory is free"
    )


def test_the_operators_settings_are_not_enlarged() -> None:
    by_hand = {"max_num_seqs": 1, "max_model_len": 2048}
    (load,) = ask(llamas(served()), Trigger.INGEST, "a", llama(by_hand)).loads
    assert (load.settings.max_num_seqs, load.settings.max_model_len) == (1, 2048)
    assert load.reason == "llama_cpp on n/g0, 3.00 GiB reserved"


def test_nothing_beyond_the_default_is_taken_while_another_model_queues() -> None:
    queued = served("q", gib=70, state=ModelState.QUEUED)
    some = builder(llamas(served(), queued), llama())
    assert some.load(served(), may_evict=lambda _: False) is Outcome.PLACED
    (load,) = some.plan().loads
    assert (load.settings.max_num_seqs, load.settings.max_model_len) == (None, None)


def test_nothing_beyond_the_default_evicts() -> None:
    large, asked_for = served(gib=40), Traffic(concurrency=4.0, pending=1)
    large = large.model_copy(update={"traffic": asked_for})
    held = loaded("x", "n/g0", gib=30)
    on_llama = held.deployment.model_copy(update={"runtime": L}) if held.deployment else None
    world = llamas(large, held.model_copy(update={"deployment": on_llama}))
    plan = ask(world, Trigger.DEMAND, "a", llama())
    assert [action.action for action in plan.actions] == ["unload", "load"]
    assert plan.loads[0].settings == LoadSettings()


def test_a_sleeping_model_wakes_with_the_settings_it_has() -> None:
    asleep = loaded("a", "n/g0").model_copy(
        update={"state": ModelState.SLEEPING, "traffic": SHORT, "profile": long().profile}
    )
    plan = ask(fleet(asleep, loaded("x", "n/g0", gib=40), gpus=1, gib=90), Trigger.DEMAND, "a")
    assert [action.action for action in plan.actions] == ["unload", "load"]
    assert plan.loads[0].settings == LoadSettings()


def test_the_dtype_of_the_device_is_in_the_plan_and_its_reason() -> None:
    files = profile(10, dtype="bfloat16")
    world = on(fleet(model("a", profile=files), gpus=1), capability=(7, 5))
    (load,) = ask(world, Trigger.INGEST, "a").loads
    assert load.settings.dtype == "float16"
    assert load.reason == "vllm on n/g0, 10.00 GiB reserved; dtype float16: T4 has no bfloat16"
    by_hand = policy(runtimes={V: RuntimeRules(default_settings={"dtype": "float32"})})
    (load,) = ask(world, Trigger.INGEST, "a", by_hand).loads
    assert load.settings.dtype == "float32"
