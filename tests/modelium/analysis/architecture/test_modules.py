"""The matrices of whole language models, each size with a number of its own."""

from typing import Any

import pytest

from modelium.analysis.architecture.matrices import Module, biased, vector
from modelium.analysis.architecture.modules import layer_modules, text_modules
from tests.modelium.analysis.architecture.shapes import lines, text_of


def outside(family: str = "llama", *, head: bool = True, **changes: Any) -> list[str]:
    """The matrices outside the layers."""
    text = text_of(family, **{"num_hidden_layers": 0, **changes})
    return lines(text_modules(text, head=head), without="model.")


def layer(family: str = "llama", index: int = 0, **changes: Any) -> list[str]:
    """The matrices of one layer without its attention."""
    found = lines(
        layer_modules(text_of(family, **changes), index), without=f"model.layers.{index}."
    )
    return [line for line in found if not line.startswith("self_attn.")]


EMBEDDING, HEAD, NORM = "embed_tokens 128×11 table", "lm_head 128×11", "norm 11×1 whole table"


@pytest.mark.parametrize(("vocabulary", "rows"), [(1, 64), (64, 64), (65, 128), (128, 128)])
def test_the_vocabulary_is_padded_to_whole_steps(vocabulary: int, rows: int) -> None:
    found = [f"embed_tokens {rows}×11 table", f"lm_head {rows}×11", NORM]
    assert outside(vocab_size=vocabulary) == found


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("llama", {}, [EMBEDDING, HEAD, NORM]),
        ("llama", {"head": False}, [EMBEDDING, NORM]),
        ("llama", {"tie_word_embeddings": True}, [EMBEDDING, NORM]),
        ("llama", {"lm_head_bias": True}, [EMBEDDING, f"{HEAD} bias 128", NORM]),
        ("phi", {}, [EMBEDDING, f"{HEAD} bias 128", NORM]),
        (
            "opt",
            {"word_embed_proj_dim": 7},
            ["embed_tokens 128×7 table", "project_in 11×7 times 2 whole",
             "embed_positions 17×11 whole table", NORM],
        ),
        (
            "llama",
            {"embedding_size": 7},
            ["embed_tokens 128×7 table", "project_in 11×7 times 2 whole", HEAD, NORM],
        ),
        ("opt", {"word_embed_proj_dim": 11},
         [EMBEDDING, "embed_positions 17×11 whole table", NORM]),
        (
            "bert",
            {"type_vocab_size": 3, "head": False},
            [EMBEDDING, "embed_positions 17×11 whole table",
             "embeddings.token_type 33×1 whole table", "pooler.dense 11×11 bias 11 whole", NORM],
        ),
        (
            "bert",
            {},
            [EMBEDDING, "embed_positions 17×11 whole table",
             "embeddings.token_type 22×1 whole table", NORM],
        ),
        (
            "roberta",
            {"head": False},
            [EMBEDDING, "embed_positions 17×11 whole table",
             "embeddings.token_type 0×1 whole table", NORM],
        ),
        (
            "modernbert",
            {"tie_word_embeddings": False},
            [EMBEDDING, HEAD, "embeddings.token_type 0×1 whole table", NORM],
        ),
    ],
)  # fmt: skip
def test_embeddings_and_the_output_follow_the_family(
    family: str, changes: dict[str, Any], found: list[str]
) -> None:
    assert outside(family, **changes) == found


PER_LAYER: dict[str, Any] = {"hidden_size_per_layer_input": 3, "num_hidden_layers": 2}


def test_embeddings_may_be_repeated_for_each_layer() -> None:
    def found(**changes: Any) -> list[str]:
        names = ("embed_tokens_per_layer", "per_layer", "layers.0.per", "layers.1.per")
        return [line for line in outside(**PER_LAYER, **changes) if line.startswith(names)]

    projections = [
        "per_layer_model_projection 6×11 whole", "layers.0.per_layer_projection 3×11 times 2 whole",
        "layers.1.per_layer_projection 3×11 times 2 whole",
    ]  # fmt: skip
    assert found() == ["embed_tokens_per_layer 100×6 table", *projections]
    own = ["embed_tokens_per_layer 70×6 table", *projections]
    assert found(vocab_size_per_layer_input=70) == own


def test_layers_stand_between_the_embeddings_and_the_last_norm() -> None:
    text = text_of(num_hidden_layers=2)
    found = list(text_modules(text, head=True))
    inside = [module for index in range(2) for module in layer_modules(text, index)]
    assert found[2:-1] == inside
    assert lines(found[:2] + found[-1:], without="model.") == [EMBEDDING, HEAD, NORM]


NORMS = "norms 22×1 whole table"
GATED = ["mlp.gate_proj 13×11", "mlp.up_proj 13×11", "mlp.down_proj 11×13"]
GATED_BIASED = ["mlp.gate_proj 13×11 bias 13", "mlp.up_proj 13×11 bias 13",
                "mlp.down_proj 11×13 bias 11"]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("llama", {}, [NORMS, *GATED]),
        ("llama", {"mlp_bias": True}, [NORMS, *GATED_BIASED]),
        ("llama", {"add_bias_linear": True}, [NORMS, *GATED_BIASED]),
        ("llama", {"use_mlp_bias": True}, [NORMS, *GATED_BIASED]),
        ("gemma2", {}, ["norms 44×1 whole table", *GATED]),
        ("falcon", {}, [NORMS, *GATED[1:]]),
        ("gpt2", {}, [NORMS, *GATED_BIASED[1:]]),
        ("t5", {}, [NORMS, *GATED[1:]]),
        ("mt5", {"feed_forward_proj": "gated-gelu"}, [NORMS, *GATED]),
        ("umt5", {"feed_forward_proj": "relu"}, [NORMS, *GATED[1:]]),
        ("llama4_text", {"intermediate_size_mlp": 7},
         [NORMS, "mlp.gate_proj 7×11", "mlp.up_proj 7×11", "mlp.down_proj 11×7"]),
        ("llama4_text", {}, [NORMS, *GATED]),
        ("llama", {"intermediate_size_mlp": 7}, [NORMS, *GATED]),
    ],
)  # fmt: skip
def test_the_feed_forward_is_gated_and_biased_as_the_family_has_it(
    family: str, changes: dict[str, Any], found: list[str]
) -> None:
    assert layer(family, **changes) == found


EXPERTS: dict[str, Any] = {"num_experts": 3, "moe_intermediate_size": 7}
ROUTED = [
    "mlp.gate 3×11 whole table", "mlp.experts.0.gate_proj 7×11 times 3 expert",
    "mlp.experts.0.up_proj 7×11 times 3 expert", "mlp.experts.0.down_proj 11×7 times 3 expert",
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("x", {}, ROUTED),
        ("x", {"topk_method": "noaux_tc"}, ["mlp.gate 3×11 bias 3 whole table", *ROUTED[1:]]),
        ("x", {"topk_method": "greedy"}, ROUTED),
        (
            "gpt_oss",
            {},
            ["mlp.gate 3×11 bias 3 whole table",
             "mlp.experts.0.gate_proj 7×11 times 3 bias 7 expert",
             "mlp.experts.0.up_proj 7×11 times 3 bias 7 expert",
             "mlp.experts.0.down_proj 11×7 times 3 bias 11 expert"],
        ),
        ("nemotron_h", {}, [ROUTED[0], *ROUTED[2:]]),
        (
            "x",
            {"n_shared_experts": 2},
            [*ROUTED, "mlp.shared_experts.gate_proj 14×11", "mlp.shared_experts.up_proj 14×11",
             "mlp.shared_experts.down_proj 11×14"],
        ),
        (
            "qwen2_moe",
            {"shared_expert_intermediate_size": 5},
            [*ROUTED, "mlp.shared_experts.gate_proj 5×11", "mlp.shared_experts.up_proj 5×11",
             "mlp.shared_experts.down_proj 11×5", "mlp.shared_expert_gate 11×1 whole table"],
        ),
        *(
            (
                "x",
                {name: 5},
                [ROUTED[0], "mlp.latent_proj 5×11 times 2 whole",
                 "mlp.experts.0.gate_proj 7×5 times 3 expert",
                 "mlp.experts.0.up_proj 7×5 times 3 expert",
                 "mlp.experts.0.down_proj 5×7 times 3 expert"],
            )
            for name in ("routed_expert_hidden_size", "moe_latent_size")
        ),
    ],
)  # fmt: skip
def test_experts_replace_the_feed_forward(
    family: str, changes: dict[str, Any], found: list[str]
) -> None:
    assert layer(family, **EXPERTS, **changes) == [NORMS, *found]


def test_layers_without_experts_keep_their_feed_forward() -> None:
    found = [layer(index=index, **EXPERTS, first_k_dense_replace=1) for index in range(2)]
    assert found == [[NORMS, *GATED], [NORMS, *ROUTED]]


def parts(family: str, **changes: Any) -> list[str]:
    """The parts of each layer beside its norms, in short."""
    text = text_of(family, **changes)
    found = []
    for index in range(text.layers):
        names = [module.name.split(".")[3] for module in layer_modules(text, index)]
        found.append(" ".join(name for name in dict.fromkeys(names) if name != "norms"))
    return found


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("llama", {}, ["self_attn mlp"] * 3),
        ("lfm2", {"layer_types": ["conv", "full", "mlp"]},
         ["linear_attn mlp", "self_attn mlp", "mlp"]),
        # One block per layer.
        ("nemotron_h", {"hybrid_override_pattern": "M-*"}, ["linear_attn", "mlp", "self_attn"]),
        ("nemotron_h", {"hybrid_override_pattern": "ME", **EXPERTS},
         ["linear_attn", "mlp", "self_attn"]),
        ("x", {"layers_block_type": ["mamba", "mlp", "attention"]},
         ["linear_attn", "mlp", "self_attn"]),
        ("x", {"layers_block_type": ["mamba", "moe"], **EXPERTS},
         ["linear_attn", "mlp", "self_attn mlp"]),
        ("mamba", {}, ["linear_attn"] * 3),
        ("mamba2", {}, ["linear_attn"] * 3),
        ("falcon_mamba", {}, ["linear_attn"] * 3),
        # A mixer and a feed-forward per layer.
        ("bamba", {"layers_block_type": ["mamba", "attention", "attention"]},
         ["linear_attn mlp", "self_attn mlp", "self_attn mlp"]),
        ("zamba", {"layers_block_type": ["hybrid", "mamba", "mamba"]},
         ["self_attn mamba mlp", "linear_attn mlp", "linear_attn mlp"]),
        ("x", {"hybrid_override_pattern": ""}, ["self_attn mlp"] * 3),
        (
            "x",
            {"hybrid_override_pattern": ["M", "*", "*"]},
            ["linear_attn mlp", "self_attn mlp", "self_attn mlp"],
        ),
    ],
)  # fmt: skip
def test_a_layer_is_a_mixer_a_feed_forward_or_both(
    family: str, changes: dict[str, Any], found: list[str]
) -> None:
    assert parts(family, **changes) == found


def test_a_matrix_counts_its_copies() -> None:
    module = Module(name="m", rows=3, columns=5, count=7, bias=2)
    assert (module.elements, module.biases) == (105, 14)
    assert vector("v", 3) == Module(name="v", rows=3, columns=1, split=False, linear=False)


def test_biases_come_from_the_family_or_a_flag_that_is_true() -> None:
    assert biased(text_of("gpt2"))
    assert biased(text_of(a=True), "b", "a")
    assert not biased(text_of(a=True, b=False, c=1), "b", "c")
