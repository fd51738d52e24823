"""The matrices of layers with constant state, each size with a number of its own."""

from typing import Any

import pytest

from modelium.analysis.architecture.state_layers import mamba_modules, state_modules
from tests.modelium.analysis.architecture.shapes import lines, text_of


def mixer(family: str = "x", **changes: Any) -> list[str]:
    return lines(state_modules(text_of(family, **changes), "p"), without="p.")


def without(config: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names} | more


GATED: dict[str, Any] = {
    "linear_num_value_heads": 6, "linear_num_key_heads": 3, "linear_key_head_dim": 7,
    "linear_value_head_dim": 4, "linear_conv_kernel_dim": 5,
}  # fmt: skip


def test_gated_linear_attention_has_heads_for_keys_and_for_values() -> None:
    assert mixer(**GATED) == [
        "in_proj_qkv 66×11", "in_proj_z 24×11", "in_proj_ba 12×11", "conv1d 66×5 table",
        "out_proj 11×24",
    ]  # fmt: skip
    alike = mixer(**without(GATED, "linear_num_key_heads"))
    assert alike[0] == "in_proj_qkv 108×11"
    usual = ("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim")
    assert mixer(**without(GATED, *usual)) == [
        "in_proj_qkv 1536×11", "in_proj_z 768×11", "in_proj_ba 12×11", "conv1d 1536×4 table",
        "out_proj 11×768",
    ]  # fmt: skip


def test_delta_attention_has_a_full_or_a_low_rank_gate() -> None:
    kimi = {"num_heads": 3, "head_dim": 7, "short_conv_kernel_size": 6}
    common = [
        "qkv_proj 63×11", "conv1d 63×6 table", "f_a_proj 7×11 whole", "f_b_proj 21×7",
        "b_proj 3×11",
    ]  # fmt: skip
    low = ["g_a_proj 7×11 whole", "g_b_proj 21×7", "o_proj 11×21"]
    assert mixer(linear_attn_config=kimi) == common + low
    full = [*common, "g_proj 21×11", "o_proj 11×21"]
    assert mixer(linear_attn_config={**kimi, "use_full_rank_gate": True}) == full


def test_delta_attention_has_the_heads_of_attention_unless_stated() -> None:
    assert mixer(linear_attn_config={"use_full_rank_gate": True}) == [
        "qkv_proj 90×11", "conv1d 90×4 table", "f_a_proj 5×11 whole", "f_b_proj 30×5",
        "b_proj 6×11", "g_proj 30×11", "o_proj 11×30",
    ]  # fmt: skip


@pytest.mark.parametrize(("raw", "kernel"), [({}, 3), ({"conv_L_cache": 7}, 7)])
def test_convolutions_alone_have_a_kernel(raw: dict[str, Any], kernel: int) -> None:
    found = ["in_proj 33×11", f"conv 11×{kernel} table", "out_proj 11×11"]
    assert mixer("lfm2", layer_types=["conv", "full", "full"], **raw) == found


MAMBA2: dict[str, Any] = {
    "mamba_num_heads": 7, "mamba_head_dim": 4, "ssm_state_size": 3, "n_groups": 2, "conv_kernel": 6,
}  # fmt: skip
OF_MAMBA2 = [
    "out_proj 11×28", "in_proj 75×11", "conv1d 40×6 bias 40 table", "rest 49×1 whole table",
]  # fmt: skip
MAMBA1: dict[str, Any] = {
    "head_dim": None, "mamba_d_state": 3, "mamba_d_conv": 6, "mamba_expand": 4, "mamba_dt_rank": 7,
}  # fmt: skip
OF_MAMBA1 = [
    "out_proj 11×44", "in_proj 88×11", "conv1d 44×6 bias 44 table", "x_proj 13×44",
    "dt_proj 44×7 bias 44", "A_log 44×3 table",
]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (MAMBA2, OF_MAMBA2),
        (
            {"mamba_n_heads": 7, "mamba_d_head": 4, "mamba_d_state": 3, "mamba_n_groups": 2,
             "mamba_d_conv": 6},
            OF_MAMBA2,
        ),
        ({"num_heads": 7, "head_dim": 4, "state_size": 3, "n_groups": 2, "conv_kernel": 6},
         OF_MAMBA2),
        (
            {**MAMBA2, "mamba_d_ssm": 20},
            ["out_proj 11×20", "in_proj 59×11", "conv1d 32×6 bias 32 table",
             "rest 41×1 whole table"],
        ),
        (
            {"mamba_num_heads": 2, "head_dim": None},
            ["out_proj 11×128", "in_proj 290×11", "conv1d 160×4 bias 160 table",
             "rest 134×1 whole table"],
        ),
        (MAMBA1, OF_MAMBA1),
        (without(MAMBA1, "mamba_expand", "mamba_dt_rank", expand=4, time_step_rank=7), OF_MAMBA1),
        (
            {},
            ["out_proj 11×22", "in_proj 44×11", "conv1d 22×4 bias 22 table", "x_proj 33×22",
             "dt_proj 22×1 bias 22", "A_log 22×16 table"],
        ),
    ],
)  # fmt: skip
def test_mamba_is_of_the_second_kind_if_it_has_heads(raw: dict[str, Any], found: list[str]) -> None:
    assert mixer(**raw) == found
    assert lines(mamba_modules(text_of(**raw), "p"), without="p.") == found


@pytest.mark.parametrize(("hidden", "rank"), [(32, 2), (33, 3), (48, 3)])
def test_the_rank_of_a_time_step_is_a_sixteenth(hidden: int, rank: int) -> None:
    assert f"dt_proj {2 * hidden}×{rank} bias {2 * hidden}" in mixer(hidden_size=hidden)
