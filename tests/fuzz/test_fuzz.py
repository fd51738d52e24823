"""Bounded runs of both fuzzers: any input is either accepted or refused with `DropRejected`."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds


def examples(count: int) -> settings:
    """Settings of ``count`` examples, or more in a profile that has more than 100."""
    return settings(
        max_examples=count * settings().max_examples // 100,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


RUNS = 800
"""Inputs of a coverage-guided run; some seconds on a busy machine."""


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_seeds_are_accepted_or_refused(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_any_bytes_are_accepted_or_refused(name: str) -> None:
    @examples(60)
    @given(st.binary(max_size=600))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_files_are_accepted_or_refused(name: str) -> None:
    originals = list(seeds(name))

    @examples(60)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        damaged = bytearray(data.draw(st.sampled_from(originals)))
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(damaged)))
        TARGETS[name](bytes(damaged if data.draw(st.booleans()) else damaged[:cut]))

    check()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
KEYS = st.sampled_from(
    [
        "architectures",
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "tie_word_embeddings",
        "quantization_config",
        "text_config",
        "vision_config",
        "audio_config",
        "layer_types",
        "sliding_window",
        "n_routed_experts",
        "num_experts",
        "num_experts_per_tok",
        "kv_lora_rank",
        "qk_rope_head_dim",
        "rope_scaling",
        "rope_parameters",
        "hybrid_override_pattern",
        "layers_block_type",
        "linear_attn_config",
        "linear_num_value_heads",
        "first_k_dense_replace",
        "decoder_sparse_step",
        "moe_layer_freq",
        "full_attention_interval",
        "sliding_window_pattern",
        "num_kv_shared_layers",
        "compress_ratios",
        "index_n_heads",
        "global_head_dim",
        "hidden_size_per_layer_input",
        "dtype",
        "torch_dtype",
        "vision_feature_layer",
        "ffn_config",
        "attn_config",
        "mlp_layer_types",
        "encoder_layers",
        "is_encoder_decoder",
        "num_nextn_predict_layers",
        "moe_layers",
        "mlp_only_layers",
    ]
)


@examples(250)
@given(st.dictionaries(KEYS, JSON | st.integers(0, 200), max_size=12), st.booleans())
def test_any_configuration_is_accepted_or_refused(config: dict[str, object], whole: bool) -> None:
    import json

    from tests.modelium.analysis.files import LLAMA

    TARGETS["config"](json.dumps({**LLAMA, **config} if whole else config).encode())


@pytest.mark.parametrize("name", ["safetensors", "gguf", "onnx", "triton", "archive"])
def test_coverage_guided_inputs_are_accepted_or_refused(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.fuzz_headers", name, str(tmp_path / "corpus"),
            f"-runs={RUNS}", "-max_len=4096", "-timeout=20", "-seed=1",
            f"-artifact_prefix={tmp_path}/",
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
