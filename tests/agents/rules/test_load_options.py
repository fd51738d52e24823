"""The ways to load a model: in which order they come, and what each one books."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.sizing import (
    LoadOption,
    Sizer,
    default_settings_for,
    smaller_settings,
    supporting_runtimes,
)
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Device,
    Fleet,
    Footprint,
    KVLayout,
    LoadSettings,
    MeasuredLoad,
    Model,
    ModelFormat,
    Preference,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Setbacks,
    Task,
    Wishes,
)
from modelium.policy import Policy, RuntimeRules
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy, profile

R = RuntimeName
V, T, S, L = R.VLLM, R.TRITON, R.RAY_SERVE, R.LLAMA_CPP
EVERY = (T, S, L, V)
"""None of the orders of preference."""


def supported(*names: RuntimeName) -> tuple[RuntimeSupport, ...]:
    return tuple(RuntimeSupport(runtime=name, supported=True) for name in names)


def with_settings(**settings: Any) -> Policy:
    return policy(runtimes=dict.fromkeys(R, RuntimeRules(default_settings=settings)))


def options(
    subject: Model,
    world: Fleet,
    by: Policy | None = None,
    *,
    smaller: bool = False,
    needs: Any = estimate,
) -> list[LoadOption]:
    given = world, by or policy()
    return list(Sizer(estimate=needs).options(subject, *given, smaller=smaller))


def needing(calls: list[dict[str, Any]] | None = None, **given: int) -> Any:
    """An estimate of these bytes, which notes what it was asked."""
    footprint = Footprint(**{"weights": 0, "expected": 0, **given})

    def estimated(_profile: Any, **asked: Any) -> Footprint:
        if calls is not None:
            calls.append(asked)
        return footprint

    return estimated


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"format": ModelFormat.GGUF}, (L, V, T, S)),
        ({"format": ModelFormat.DIFFUSERS}, (S, T, L, V)),
        ({"format": ModelFormat.PEFT}, (V, S, T, L)),
        ({"format": ModelFormat.ONNX}, (T, S, L, V)),
        ({"format": ModelFormat.TORCHSCRIPT}, (T, S, L, V)),
        ({"format": ModelFormat.CUSTOM, "task": Task.TEXT_GENERATION}, (T, S, L, V)),
        ({"task": Task.TEXT_GENERATION}, (V, L, S, T)),
        ({"task": Task.TEXT2TEXT}, (V, L, S, T)),
        ({"task": Task.EMBEDDING}, (S, V, T, L)),
        ({"task": Task.EMBEDDING, "kv": KVLayout()}, (V, L, S, T)),
    ],
)
def test_runtimes_come_in_the_formats_order_and_others_last(
    given: dict[str, Any], expected: tuple[RuntimeName, ...]
) -> None:
    assert supporting_runtimes(profile(1, runtimes=supported(*EVERY), **given)) == expected


def test_a_runtime_that_does_not_support_the_model_is_none_of_its_runtimes() -> None:
    able = (*supported(S), RuntimeSupport(runtime=V, supported=False, reason="no"))
    assert supporting_runtimes(profile(1, runtimes=able)) == (S,)


@pytest.mark.parametrize(
    ("operator", "files", "expected"),
    [
        ({}, {}, {}),
        ({"max_model_len": 4097}, {}, {"max_model_len": 4096}),
        ({"max_model_len": 4095}, {}, {"max_model_len": 4095}),
        ({"max_model_len": 9999}, {"context_length": None}, {"max_model_len": 9999}),
        ({"quantization": "awq"}, {"quantization": "awq"}, {"quantization": "awq"}),
        ({"quantization": "awq"}, {"quantization": "gptq"}, {}),
        ({"quantization": "awq"}, {}, {}),
        (
            {"tensor_parallel_size": 2},
            {"tensor_parallel_degrees": (1, 2)},
            {"tensor_parallel_size": 2},
        ),
        ({"tensor_parallel_size": 2}, {"tensor_parallel_degrees": (1, 4)}, {}),
        ({"max_batch_size": 3, "seed": 7}, {}, {"max_num_seqs": 3, "extra": {"seed": 7}}),
    ],
)
def test_the_operators_settings_are_adapted_to_the_model(
    operator: dict[str, Any], files: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = default_settings_for(profile(1, **files), with_settings(**operator), V)
    assert found == LoadSettings(**expected)


def test_the_models_own_settings_precede_those_of_the_runtime() -> None:
    by = policy(
        runtimes={V: RuntimeRules(default_settings={"max_num_seqs": 8, "dtype": "float16"})},
        model_settings={"a": {"max_num_seqs": 2}},
    )
    (option,) = options(model("a"), fleet(gpus=1, runtimes=fleet().runtimes[:1]), by)
    assert (option.settings.max_num_seqs, option.settings.dtype) == (2, "float16")
    (other,) = options(model("b"), fleet(gpus=1, runtimes=fleet().runtimes[:1]), by)
    assert other.settings.max_num_seqs == 8


def test_a_model_that_is_not_analyzed_has_no_options() -> None:
    fresh = model("a", profile=None, state=ModelState.INGESTED)
    assert options(fresh, fleet()) == []
    sizer = Sizer(estimate=estimate)
    assert list(sizer.preferred(fresh, Preference(runtime=V), fleet(), policy())) == []


@pytest.mark.parametrize(
    ("status", "rules"),
    [
        (None, RuntimeRules()),
        (RuntimeStatus(name=V, enabled=False, healthy=True), RuntimeRules()),
        (RuntimeStatus(name=V, enabled=True, healthy=True), RuntimeRules(enabled=False)),
    ],
)
def test_a_runtime_has_to_be_there_and_enabled_by_configuration_and_policy(
    status: RuntimeStatus | None, rules: RuntimeRules
) -> None:
    world = fleet(runtimes=(status,) if status else ())
    assert options(model("a"), world, policy(runtimes={V: rules})) == []
    on = fleet(runtimes=(RuntimeStatus(name=V, enabled=True, healthy=False),))
    assert len(options(model("a"), on, policy(runtimes={V: RuntimeRules()}))) == 1


def kinds(found: list[LoadOption]) -> list[tuple[RuntimeName, int, int]]:
    return [(o.runtime, o.settings.tensor_parallel_size, o.reserve // GIB) for o in found]


SPLIT = {"tensor_parallel_degrees": (4, 1, 2)}


def test_each_runtime_in_turn_on_as_few_devices_as_possible() -> None:
    divisible = model("a", profile=profile(40, **SPLIT))
    found = options(divisible, fleet(gpus=4))
    assert kinds(found) == [(V, 1, 40), (V, 2, 20), (V, 4, 10), (S, 1, 40)]
    assert kinds(options(divisible, fleet(gpus=3))) == [(V, 1, 40), (V, 2, 20), (S, 1, 40)]
    large = model("a", profile=profile(100, **SPLIT))
    assert kinds(options(large, fleet(gpus=4))) == [(V, 2, 50), (V, 4, 25)]


def test_a_requested_degree_is_the_least_one_where_the_runtime_can_split() -> None:
    divisible = model("a", profile=profile(40, **SPLIT))
    by = with_settings(tensor_parallel_size=2)
    assert kinds(options(divisible, fleet(gpus=4), by)) == [(V, 2, 20), (V, 4, 10), (S, 1, 40)]
    wished = Preference(runtime=V, settings=LoadSettings(tensor_parallel_size=8))
    found = Sizer(estimate=estimate).preferred(divisible, wished, fleet(gpus=8), policy())
    assert kinds(list(found)) == [(V, 4, 10)]


def test_the_node_with_the_most_devices_decides_how_far_a_model_can_be_split() -> None:
    world = fleet(gpus=4)
    apart = tuple(
        d.model_copy(update={"node": n}) for d, n in zip(world.devices, "abbc", strict=True)
    )
    divisible = model("a", profile=profile(100, **SPLIT))
    assert kinds(options(divisible, fleet(devices=apart))) == [(V, 2, 50)]


def test_mig_instances_are_used_one_by_one() -> None:
    whole = fleet(gpus=4)
    parts = tuple(d.model_copy(update={"mig": i}) for i, d in enumerate(whole.devices))
    divisible = model("a", profile=profile(40, **SPLIT))
    assert kinds(options(divisible, fleet(devices=parts))) == [(V, 1, 40), (S, 1, 40)]


@pytest.mark.parametrize(("gib", "fits"), [(8, True), (8 + 1 / GIB, False)])
def test_an_option_may_fill_a_device_up_to_the_operators_share(gib: float, fits: bool) -> None:
    world, by = fleet(gpus=1, gib=10), policy(max_gpu_memory_utilization=0.8)
    assert bool(options(model("a", gib), world, by)) is fits


def test_an_option_books_one_byte_at_least() -> None:
    assert [o.reserve for o in options(model("a"), fleet(), needs=needing(reserve=0))] == [1, 1]


def test_the_estimate_is_asked_for_the_settings_and_the_device() -> None:
    took = {
        name: MeasuredLoad(
            runtime=V, device_kind=name, settings_digest="", per_device_bytes=1, load_s=1, at=NOW
        )
        for name in ("EPYC", "cpu", "H100", "gpu")
    }
    subject = model("a", profile=profile(1, **SPLIT), measured=tuple(took.values()))
    by = with_settings(
        dtype="float16", kv_dtype="fp8", max_model_len=512, max_num_seqs=4,
        max_num_batched_tokens=64,
    )  # fmt: skip
    calls: list[dict[str, Any]] = []
    cpu = Device(node="n", uuid="cpu", kind="cpu", name="EPYC", total_bytes=GIB, free_bytes=GIB)
    vllm = RuntimeStatus(name=V, enabled=True, healthy=True, version="0.11")
    options(subject, fleet(devices=(cpu,), runtimes=(vllm,)), by, needs=needing(calls, reserve=1))
    options(
        subject,
        fleet(runtimes=(vllm.model_copy(update={"version": ""}),)),
        policy(),
        needs=needing(calls, reserve=1),
    )
    asked = {
        "runtime": V, "tensor_parallel": 1, "dtype": "float16", "kv_dtype": "fp8",
        "max_model_len": 512, "max_num_seqs": 4, "engine_version": "0.11", "device_kind": "cpu",
        "device_bytes": GIB, "batched_tokens": 64,
        # Loads are recorded under the device's name; estimates of CPUs use the kind.
        "measured": [took["cpu"], took["cpu"]],
    }  # fmt: skip
    bare = {
        "runtime": V, "tensor_parallel": 1, "dtype": None, "kv_dtype": None,
        "max_model_len": None, "max_num_seqs": None, "engine_version": None,
        "device_kind": "H100", "device_bytes": 80 * GIB, "batched_tokens": None,
        "measured": [took["H100"]],
    }  # fmt: skip
    assert calls == [asked, bare, {**bare, "tensor_parallel": 2}]


@pytest.mark.parametrize(
    ("extra", "tokens"),
    [
        ({"max_num_batched_tokens": 64}, 64),
        ({"max-num-batched-tokens": 1}, 1),
        ({"max_num_batched_tokens": 0, "max-num-batched-tokens": 9}, 9),
        ({"max_num_batched_tokens": 0}, None),
        ({"max_num_batched_tokens": True}, None),
        ({"max_num_batched_tokens": "64"}, None),
        ({}, None),
    ],
)
def test_the_operators_batch_counts_where_it_is_a_number_of_tokens(
    extra: dict[str, Any], tokens: int | None
) -> None:
    calls: list[dict[str, Any]] = []
    options(model("a"), fleet(), with_settings(**extra), needs=needing(calls, reserve=1))
    assert [asked["batched_tokens"] for asked in calls] == [tokens, tokens]


def pool(option: LoadOption) -> tuple[int | None, int, int, int]:
    settings = option.settings
    return settings.kv_cache_bytes, settings.extra_kv_bytes, option.reserve, option.kv_ceiling


NEED = {"kv": 300, "kv_least": 200, "reserve": 1000}


@pytest.mark.parametrize(
    ("operator", "needs", "expected"),
    [
        # vLLM's pool, and Ray Serve, which has none.
        ({}, NEED, [(300, 0, 1000, 200 * 256), (None, 0, 1000, 0)]),
        ({"max_num_seqs": 4}, NEED, [(300, 0, 1000, 800), (None, 0, 1000, 0)]),
        ({}, {"reserve": 1000}, [(None, 0, 1000, 0), (None, 0, 1000, 0)]),
        ({"kv_cache_bytes": 450}, NEED, [(450, 150, 1150, 0), (450, 0, 1000, 0)]),
        ({"kv_cache_bytes": 200}, NEED, [(200, -100, 900, 0), (200, 0, 1000, 0)]),
        ({"kv_cache_bytes": 199}, NEED, [(199, 0, 1000, 0)]),
        ({"kv_cache_bytes": 1001}, {"reserve": 1000}, [(1000, 0, 1000, 0)] * 2),
    ],
)
def test_a_pool_is_booked_as_the_context_needs_it_or_the_operator_sets_it(
    operator: dict[str, Any], needs: dict[str, int], expected: list[Any]
) -> None:
    found = options(model("a"), fleet(), with_settings(**operator), needs=needing(**needs))
    assert [pool(option) for option in found] == expected


def test_a_pool_that_is_too_small_on_one_device_may_do_on_two() -> None:
    def halved(_profile: Any, *, tensor_parallel: int, **_: Any) -> Footprint:
        need = 400 // tensor_parallel
        return Footprint(weights=0, expected=0, reserve=1000, kv=need, kv_least=need)

    divisible = model("a", profile=profile(1, tensor_parallel_degrees=(1, 2)))
    world = fleet(runtimes=fleet().runtimes[:1])
    found = options(divisible, world, with_settings(kv_cache_bytes=200), needs=halved)
    assert [option.settings.tensor_parallel_size for option in found] == [2]


def test_a_cpu_lends_no_idle_memory() -> None:
    cpu = Device(node="n", uuid="cpu", kind="cpu", total_bytes=GIB, free_bytes=GIB)
    found = options(model("a"), fleet(devices=(cpu,)), needs=needing(**NEED))
    assert [option.kv_ceiling for option in found] == [0, 0]


def steps(
    requested: LoadSettings, by: Policy | None = None, **given: Any
) -> list[tuple[int | None, int | None]]:
    found = smaller_settings(requested, profile(1, **given), by or policy())
    return [(s.max_num_seqs, s.max_model_len) for s in found]


@pytest.mark.parametrize("files", [{"kv": KVLayout()}, {"kv_bytes_per_token": 1}])
def test_sequences_are_halved_first_then_the_context_down_to_the_policys_least(
    files: dict[str, Any],
) -> None:
    asked = LoadSettings(max_num_seqs=8, max_model_len=4096)
    least = policy(max_num_seqs_floor=2, max_model_len_floor=1024)
    assert steps(asked, least, **files) == [(4, 4096), (2, 4096), (2, 2048), (2, 1024)]
    above = policy(max_num_seqs_floor=3, max_model_len_floor=1025)
    assert steps(asked, above, **files) == [(4, 4096), (4, 2048)]


def test_the_models_own_context_is_halved_where_none_is_requested() -> None:
    def found(**given: Any) -> list[tuple[int | None, int | None]]:
        return steps(LoadSettings(), kv_bytes_per_token=1, **given)

    assert found(context_length=4100) == [(None, 2050), (None, 1025)]
    assert found(context_length=2047) == []
    assert found(context_length=None) == []
    asked = LoadSettings(max_num_seqs=1, max_model_len=2048)
    assert steps(asked, kv_bytes_per_token=1, context_length=9000) == [(1, 1024)]


def test_a_model_without_a_kv_cache_has_no_smaller_settings() -> None:
    assert steps(LoadSettings(max_num_seqs=8, max_model_len=4096)) == []
    assert options(model("a"), fleet(), smaller=True) == []


def test_smaller_options_say_how_they_fall_short() -> None:
    long = model("a", profile=profile(1, kv_bytes_per_token=1, runtimes=supported(V)))

    def said(**settings: Any) -> list[str]:
        by = with_settings(**settings)
        return [o.shortfall for o in options(long, fleet(gpus=1), by, smaller=True)]

    own = "max_model_len 2048 instead of the model’s own"
    assert said() == [own, "max_model_len 1024 instead of the model’s own"]
    assert said(max_num_seqs=2, max_model_len=2048) == [
        "max_num_seqs 1 instead of 2",
        "max_num_seqs 1 instead of 2, max_model_len 1024 instead of 2048",
    ]
    assert [o.shortfall for o in options(long, fleet(gpus=1))] == [""]


def failed(**counts: int) -> dict[str, Any]:
    return {"setbacks": Setbacks(runtimes={R(name): count for name, count in counts.items()})}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (failed(vllm=1), [V, S]),
        (failed(vllm=2), [S]),
        (failed(ray_serve=2), [V]),
        (failed(vllm=2, ray_serve=2), [V, S]),
    ],
)
def test_a_runtime_that_failed_twice_is_left_out_while_another_fits(
    given: dict[str, Any], expected: list[RuntimeName]
) -> None:
    assert [o.runtime for o in options(model("a", **given), fleet(gpus=1))] == expected


def test_a_model_sleeps_and_wakes_in_the_runtime_that_holds_it() -> None:
    asleep = loaded("a", "n/g0", state=ModelState.SLEEPING, **failed(vllm=2))
    assert [o.runtime for o in options(asleep, fleet(asleep, gpus=1))] == [V, S]


def test_a_runtime_that_failed_stays_where_no_other_one_fits() -> None:
    def needs(given: Any, *, runtime: RuntimeName, **settings: Any) -> Footprint:
        found = estimate(given, **settings)
        times = 100 if runtime is S else 1
        return found.model_copy(update={"reserve": found.reserve * times})

    assert [
        o.runtime for o in options(model("a", **failed(vllm=2)), fleet(gpus=1), needs=needs)
    ] == [V]
    # A shorter context fits the other one.
    long = profile(0.1, kv_bytes_per_token=GIB // 4096)
    subject = model("a", profile=long, **failed(vllm=2))
    found = options(subject, fleet(gpus=1), smaller=True, needs=needs)
    assert [(o.runtime, o.settings.max_model_len) for o in found] == [(S, 2048), (S, 1024)]
    assert options(subject, fleet(gpus=1), needs=needs) == []


def preferred(wished: Preference, subject: Model, by: Policy | None = None) -> list[LoadOption]:
    return list(Sizer(estimate=estimate).preferred(subject, wished, fleet(), by or policy()))


def test_a_preference_is_completed_by_the_operators_defaults() -> None:
    by = with_settings(dtype="float16", max_num_seqs=8, seed=1)
    wished = Preference(settings=LoadSettings(max_num_seqs=3, extra={"seed": 2}))
    found = preferred(wished, model("a"), by)
    assert [(o.runtime, o.settings) for o in found] == [
        (name, LoadSettings(dtype="float16", max_num_seqs=3, extra={"seed": 1})) for name in (V, S)
    ]
    assert [o.shortfall for o in found] == ["", ""]


@pytest.mark.parametrize(
    ("preferred_length", "wished", "expected"),
    [
        (4096, 2048, 2048),
        (2049, 2048, 2048),
        (2048, 2048, 2048),
        (1500, 2048, 1500),
        (4096, 16, 1024),
        (4096, None, 4096),
        (None, 2048, 2048),
    ],
)
def test_a_preferred_context_ends_at_the_owners_wish(
    preferred_length: int | None, wished: int | None, expected: int
) -> None:
    subject = model("a").model_copy(update={"wishes": Wishes(context=wished)})
    like = Preference(runtime=V, settings=LoadSettings(max_model_len=preferred_length))
    assert [o.settings.max_model_len for o in preferred(like, subject)] == [expected]


def test_a_preferred_context_may_exceed_the_wish_where_the_operator_set_one() -> None:
    subject = model("a").model_copy(update={"wishes": Wishes(context=2048)})
    own = policy(model_settings={"a": {"max_model_len": 3000}})
    like = Preference(runtime=V, settings=LoadSettings(max_model_len=4000))
    assert [o.settings.max_model_len for o in preferred(like, subject, own)] == [4000]


def test_a_preference_for_one_device_leaves_the_degree_to_the_rules() -> None:
    by = with_settings(tensor_parallel_size=2)
    divisible = model("a", profile=profile(40, tensor_parallel_degrees=(1, 2)))
    assert kinds(preferred(Preference(runtime=V), divisible, by)) == [(V, 2, 20)]
    split = Preference(runtime=V, settings=LoadSettings(tensor_parallel_size=2))
    assert kinds(preferred(split, divisible)) == [(V, 2, 20)]


@pytest.mark.parametrize(
    ("runtime", "given", "expected"),
    [
        (S, {}, [S]),
        (T, {}, []),  # not supported
        (V, failed(vllm=2), []),
        (None, failed(vllm=2), [S]),
    ],
)
def test_a_preferred_runtime_has_to_be_able_to_serve_the_model(
    runtime: RuntimeName | None, given: dict[str, Any], expected: list[RuntimeName]
) -> None:
    found = preferred(Preference(runtime=runtime), model("a", **given))
    assert [option.runtime for option in found] == expected


def test_a_preference_passes_over_a_runtime_that_is_disabled() -> None:
    by = policy(runtimes={S: RuntimeRules()})
    assert [o.runtime for o in preferred(Preference(), model("a"), by)] == [S]
