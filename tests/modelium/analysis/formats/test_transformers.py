"""Transformers folders and configurations: sizes, layouts, quantization, support."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.estimator import PUBLISHED
from modelium.analysis import EngineCatalog, analyze
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, RuntimeName, Task
from tests.modelium.analysis.files import (
    LLAMA,
    llama_folder,
    llama_tensors,
    write_json,
    write_safetensors,
)

QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
    "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "max_position_embeddings": 163840, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "topk_method": "noaux_tc", "quantization_config": {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip
QWEN35: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_5_text", "dtype": "bfloat16", "hidden_size": 5120,
        "intermediate_size": 17408, "num_hidden_layers": 64, "num_attention_heads": 24,
        "num_key_value_heads": 4, "head_dim": 256, "attn_output_gate": True,
        "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "vocab_size": 248320, "max_position_embeddings": 262144},
    "vision_config": {
        "model_type": "qwen3_5", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
        "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "num_position_embeddings": 2304, "out_hidden_size": 5120},
}  # fmt: skip
GEMMA2: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 2304,
    "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "sliding_window": 4096,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880,
    "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128,
    "num_experts_per_tok": 4, "vocab_size": 201088, "sliding_window": 128,
    "max_position_embeddings": 131072, "tie_word_embeddings": False, "attention_bias": True,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
        "lm_head"]},
}  # fmt: skip
NEMOTRON_H: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "hidden_size": 2688,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "intermediate_size": 1856, "moe_intermediate_size": 1856, "n_routed_experts": 128,
    "moe_shared_expert_intermediate_size": 3712, "n_shared_experts": 1,
    "num_experts_per_tok": 6, "num_attention_heads": 32, "num_key_value_heads": 2,
    "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8,
    "ssm_state_size": 128, "conv_kernel": 4, "vocab_size": 131072,
    "max_position_embeddings": 262144, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def of(tmp_path: Path, config: Mapping[str, Any], **changes: Any) -> ModelProfile:
    path = write_json(tmp_path / "config.json", {**config, **changes})
    return analyze(path, approvals=frozenset({"remote-code"}))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"], 8_030_261_248),
        (QWEN3_MOE, 30_532_122_624),
        (DEEPSEEK_V3, 671_026_419_200),
        (GEMMA2, 2_614_341_888),
        (PUBLISHED["microsoft/phi-2"], 2_779_683_840),
        (NEMOTRON_H, 31_577_937_344),
        (GPT_OSS, 116_829_156_672),
        (PUBLISHED["google/gemma-3-12b-it"], 12_187_325_040),
        (PUBLISHED["meta-llama/Llama-4-Scout-17B-16E-Instruct"], 108_641_793_536),
        (QWEN35, 27_360_000_000),
    ],
)
def test_parameters_match_the_published_counts(
    tmp_path: Path, config: dict[str, Any], parameters: int
) -> None:
    # Norms of single heads and padding of the vocabulary are the engine's affair: 0.1%.
    assert of(tmp_path, config).parameter_count == pytest.approx(parameters, rel=1e-3)


def test_weights_come_from_the_headers_where_there_are_files(tmp_path: Path) -> None:
    profile = analyze(llama_folder(tmp_path / "m", shards=3))
    tensors = llama_tensors()
    elements = sum(
        a * b if len(s) == 2 else s[0] for _, s in tensors.values() for a, b in [(*s, 1, 1)[:2]]
    )
    assert profile.exact
    assert profile.parameter_count == elements
    assert profile.weight_bytes == 2 * elements
    assert profile.weight_bytes_by_dtype == {"BF16": 2 * elements}
    assert profile.format is ModelFormat.TRANSFORMERS
    assert profile.kv_bytes_per_token == 2 * 2 * 4 * 8 * 2
    assert profile.tensor_parallel_degrees == (1, 2, 4, 8)


def test_the_configuration_alone_says_the_same_as_the_files(tmp_path: Path) -> None:
    exact = analyze(llama_folder(tmp_path / "m"))
    computed = of(tmp_path, LLAMA)
    assert not computed.exact
    assert computed.weight_bytes == exact.weight_bytes


def test_what_engines_leave_on_disk_is_not_counted(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", tie_word_embeddings=True, num_nextn_predict_layers=1)
    tensors = llama_tensors()
    tied = {name: t for name, t in tensors.items() if name != "lm_head.weight"}
    extra = {
        "model.layers.2.mlp.up_proj.weight": ("BF16", (128, 64)),
        "mtp.x": ("BF16", (128,)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (4,)),
    }
    write_safetensors(folder / "model.safetensors", {**tensors, **extra})
    profile = analyze(folder)
    write_safetensors(folder / "model.safetensors", tied)
    assert profile.weight_bytes == analyze(folder).weight_bytes
    assert profile.details["bytes_not_loaded"] == 256 * 64 * 2 + 128 * 64 * 2 + 256 + 16


def test_a_second_copy_in_the_makers_naming_is_not_counted(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    alone = analyze(folder).weight_bytes
    write_safetensors(folder / "consolidated.safetensors", {"tok.weight": ("BF16", (256, 64))})
    assert analyze(folder).weight_bytes == alone


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=3)
    (folder / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(DropRejected) as caught:
        analyze(folder)
    assert caught.value.reason == "missing-shard"


def test_gemma_ties_its_embeddings_unless_told_otherwise(tmp_path: Path) -> None:
    tied = of(tmp_path, GEMMA2).weight_bytes
    assert of(tmp_path, GEMMA2, tie_word_embeddings=False).weight_bytes - tied == 256000 * 2304 * 2


def test_sizes_that_a_family_leaves_out_are_its_own_defaults(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240}
    text |= {"num_hidden_layers": 34}
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    profile = of(tmp_path, whole, text_config=text)
    # google/gemma-3-4b: 3.88 billion in its language model.
    assert profile.parameter_count == pytest.approx(3_880_099_328, rel=1e-3)
    assert profile.kv is not None and (profile.kv.full_layers, profile.kv.sliding_layers) == (5, 29)


def test_latent_attention_keeps_one_vector_per_layer(tmp_path: Path) -> None:
    profile = of(tmp_path, DEEPSEEK_V3)
    assert profile.kv_bytes_per_token == (512 + 64) * 61 * 2
    assert profile.quantization == "fp8"
    assert profile.weight_bytes == pytest.approx(672e9, rel=0.01)


def test_hybrid_layers_hold_constant_state(tmp_path: Path) -> None:
    profile = of(tmp_path, QWEN35)
    assert profile.task is Task.IMAGE_TEXT_TO_TEXT
    assert profile.kv is not None
    assert (profile.kv.full_layers, profile.kv.state_layers) == (16, 48)
    assert profile.kv.state_elements == 48 * (48 * 128 * 128 + (2 * 16 + 48) * 128 * 3)
    assert profile.kv_bytes_per_token == 2 * 16 * 4 * 256 * 2
    nemotron = of(tmp_path, NEMOTRON_H)
    assert nemotron.kv is not None
    assert (nemotron.kv.full_layers, nemotron.kv.state_layers) == (6, 23)


def test_sliding_windows_follow_each_familys_pattern(tmp_path: Path) -> None:
    def layers(config: dict[str, Any], **changes: Any) -> tuple[int, int]:
        kv = of(tmp_path, config, **changes).kv
        assert kv is not None
        return kv.full_layers, kv.sliding_layers

    assert layers(GEMMA2) == (13, 13)
    assert layers(GPT_OSS) == (18, 18)
    mistral = {**LLAMA, "model_type": "mistral", "sliding_window": 128}
    assert layers(mistral) == (0, 2)
    assert layers({**LLAMA, "sliding_window": 128, "use_sliding_window": False}) == (2, 0)
    types = ["sliding_attention", "full_attention"]
    assert layers(LLAMA, layer_types=types, sliding_window=4) == (1, 1)


def compressed(**weights: Any) -> dict[str, Any]:
    groups = {"g": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


@pytest.mark.parametrize(
    ("quantization", "name", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, "gptq", 4.16),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "awq", 4.16),
        ({"quant_method": "fp8"}, "fp8", 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8),
        (compressed(num_bits=8, type="float"), "compressed-tensors", 8),
        (compressed(num_bits=4, type="float", group_size=32), "mxfp4", 4.25),
    ],
)  # fmt: skip
def test_quantized_weights_have_the_formats_bits(
    tmp_path: Path, quantization: dict[str, Any], name: str, bits: float
) -> None:
    base = PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"]
    profile = of(tmp_path, base, quantization_config=quantization)
    assert profile.quantization == name
    embeddings = 2 * 128256 * 4096 * 2
    linear = 6_979_321_856
    assert (profile.weight_bytes - embeddings) * 8 / linear == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize(
    "ignore", [["re:.*self_attn.*", "lm_head"], ["model.layers.*.self_attn*"], ["*self_attn*"]]
)
def test_excluded_modules_keep_their_own_size(tmp_path: Path, ignore: list[str]) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ignore}
    base = PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"]
    all_of_it = of(tmp_path, base, quantization_config={**quantization, "ignore": []})
    profile = of(tmp_path, base, quantization_config=quantization)
    attention = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096)
    grown = profile.weight_bytes - all_of_it.weight_bytes
    assert grown == pytest.approx(attention, rel=0.01)


def test_a_quantizers_own_file_counts_where_the_configuration_is_silent(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_json(folder / "config.json", PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"])
    plain = analyze(folder).weight_bytes
    write_json(
        folder / "hf_quant_config.json",
        {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
    )  # fmt: skip
    profile = analyze(folder)
    assert profile.quantization == "fp8"
    assert profile.weight_bytes < 0.6 * plain


def test_hostile_exclusion_patterns_cost_no_time(tmp_path: Path) -> None:
    patterns = ["re:(a+)+$", "re:" + "(.*" * 40, "*a" * 90 + "b", "[" * 150, "x" * 10_000, 7, None]
    quantization = {"quant_method": "fp8", "ignore": patterns * 500}
    profile = of(tmp_path, LLAMA, quantization_config=quantization)
    assert profile.quantization == "fp8"


@pytest.mark.parametrize(
    ("changes", "task"),
    [
        ({}, Task.TEXT_GENERATION),
        ({"architectures": ["BertModel"], "model_type": "bert"}, Task.EMBEDDING),
        ({"architectures": ["LlamaForSequenceClassification"]}, Task.TEXT_CLASSIFICATION),
        ({"architectures": ["XForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
         Task.TEXT_RANKING),
        ({"architectures": ["XForSequenceClassification"], "num_labels": 3},
         Task.TEXT_CLASSIFICATION),
        ({"classifier_from_token": ["no", "yes"]}, Task.TEXT_RANKING),
        ({"architectures": ["BertForTokenClassification"]}, Task.TOKEN_CLASSIFICATION),
        ({"architectures": ["ViTForImageClassification"]}, Task.IMAGE_CLASSIFICATION),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, Task.TEXT2TEXT),
        ({"architectures": ["X"], "model_type": "whisper"}, Task.SPEECH_RECOGNITION),
        ({"architectures": ["X"], "vision_config": {}}, Task.IMAGE_TEXT_TO_TEXT),
    ],
)  # fmt: skip
def test_the_task_follows_from_the_class(
    tmp_path: Path, changes: dict[str, Any], task: Task
) -> None:
    assert of(tmp_path, LLAMA, **changes).task is task


POOLING = '[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]'


@pytest.mark.parametrize(
    ("file", "text", "task"),
    [
        ("modules.json", POOLING, Task.EMBEDDING),
        ("config_sentence_transformers.json", '{"model_type": "CrossEncoder"}', Task.TEXT_RANKING),
        ("README.md", "---\npipeline_tag: text-ranking\n---\n", Task.TEXT_RANKING),
        ("README.md", "---\npipeline_tag: text-generation\n---\n", Task.TEXT_GENERATION),
        ("README.md", "pipeline_tag: text-ranking", Task.TEXT_GENERATION),
    ],
)
def test_embedding_models_and_rerankers_of_a_generators_class_are_told_by_their_files(
    tmp_path: Path, file: str, text: str, task: Task
) -> None:
    folder = llama_folder(tmp_path)
    (folder / file).write_text(text)
    engines = EngineCatalog(ray_modules=frozenset({"torch", "transformers"}))
    profile = analyze(folder, engines=engines)
    assert profile.task is task
    assert profile.kv is not None  # its engine attends as a generator does
    if task is Task.TEXT_RANKING:
        assert "cross-encoders" in profile.support(RuntimeName.RAY_SERVE).reason


def test_whisper_and_t5_count_both_halves(tmp_path: Path) -> None:
    whisper = {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper",
        "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_ffn_dim": 5120,
        "decoder_ffn_dim": 5120, "encoder_attention_heads": 20, "decoder_attention_heads": 20,
        "vocab_size": 51866, "num_mel_bins": 128, "max_source_positions": 1500,
        "max_target_positions": 448, "is_encoder_decoder": True,
    }  # fmt: skip
    assert of(tmp_path, whisper).parameter_count == pytest.approx(1_543_490_560, rel=0.01)
    t5 = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 512,
        "d_ff": 2048, "d_kv": 64, "num_heads": 8, "num_layers": 6, "vocab_size": 32128,
        "is_encoder_decoder": True,
    }  # fmt: skip
    assert of(tmp_path, t5).parameter_count == pytest.approx(60_506_624, rel=0.01)


def test_runtimes_say_why_not(tmp_path: Path) -> None:
    unknown = of(tmp_path, LLAMA, architectures=["NobodyForCausalLM"])
    assert "NobodyForCausalLM" in unknown.support(RuntimeName.VLLM).reason
    assert of(tmp_path, LLAMA).support(RuntimeName.VLLM).supported
    ray = of(tmp_path, LLAMA).support(RuntimeName.RAY_SERVE)
    assert not ray.supported and "ray_serve.python" in ray.reason
    engines = EngineCatalog(
        vllm_version="9.9", vllm_architectures=frozenset(),
        ray_modules=frozenset({"torch", "transformers"}),
    )  # fmt: skip
    other = analyze(tmp_path / "config.json", engines=engines)
    assert other.support(RuntimeName.RAY_SERVE).supported
    assert "9.9" in other.support(RuntimeName.VLLM).reason


def test_a_configuration_without_sizes_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"model_type": "llama", "architectures": ["L"]})
    with pytest.raises(DropRejected) as caught:
        analyze(path)
    assert caught.value.reason == "unknown-format"


def test_a_quantizers_record_alone_is_told_from_a_model(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"quantization": {"quant_algo": "FP8"}})
    with pytest.raises(DropRejected, match="describes a quantization"):
        analyze(path)


@pytest.mark.parametrize("value", [-1, 0, 2**60, "many", None, [], {}, 1e300, True])
@pytest.mark.parametrize("key", sorted(k for k, v in LLAMA.items() if isinstance(v, int)))
def test_absurd_sizes_end_in_a_profile_or_a_reason(tmp_path: Path, key: str, value: object) -> None:
    try:
        profile = of(tmp_path, LLAMA, **{key: value})
    except DropRejected as exc:
        assert exc.reason
    else:
        assert profile.weight_bytes >= 0
        json.loads(profile.model_dump_json())


def dense(family: str, *sizes: int, **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "vocab_size")  # fmt: skip
    return {
        "model_type": family, "architectures": ["XForCausalLM"], "torch_dtype": "bfloat16",
        "max_position_embeddings": 2048, "tie_word_embeddings": False,
    } | dict(zip(names, sizes, strict=True)) | more  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (dense("mistral", 4096, 14336, 32, 32, 8, 32000), 7.2417),
        (dense("mixtral", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8), 46.7028),
        (dense("phi3", 3072, 8192, 32, 32, 32, 32064), 3.8211),
        (dense("qwen2", 3584, 18944, 28, 28, 4, 152064), 7.6156),
        (dense("qwen2_moe", 2048, 5632, 24, 16, 16, 151936, num_experts=60,
               moe_intermediate_size=1408, shared_expert_intermediate_size=5632), 14.316),
        (dense("jamba", 4096, 14336, 32, 32, 8, 65536, attn_layer_period=8, attn_layer_offset=4,
               expert_layer_period=2, expert_layer_offset=1, num_experts=16, mamba_d_state=16,
               mamba_expand=2, mamba_dt_rank=256), 51.57),
        (dense("kimi_linear", 2304, 9216, 27, 32, 32, 163840, num_experts=256, kv_lora_rank=512,
               qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, num_shared_experts=1,
               moe_intermediate_size=1024, first_k_dense_replace=1, linear_attn_config={
                   "kda_layers": [i for i in range(1, 27) if i % 4], "num_heads": 32,
                   "head_dim": 128, "short_conv_kernel_size": 4}), 49.1227),
        (dense("gpt_neox", 6144, 24576, 44, 64, 64, 50432), 20.554),
        (dense("starcoder2", 4608, 18432, 32, 36, 4, 49152, tie_word_embeddings=True), 7.174),
        (dense("gpt_oss", 2880, 2880, 24, 64, 8, 201088, head_dim=64, num_local_experts=32), 20.9147),
        (dense("glm4_moe", 4096, 10944, 46, 96, 8, 151552, head_dim=128, n_routed_experts=128,
               moe_intermediate_size=1408, n_shared_experts=1, first_k_dense_replace=1,
               attention_bias=True), 106.85),
        ({"model_type": "falcon", "architectures": ["FalconForCausalLM"], "hidden_size": 4544,
          "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024,
          "multi_query": True, "bias": False}, 6.9217),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, 0.12444),
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"], "hidden_size": 2560,
          "num_hidden_layers": 64, "state_size": 16, "expand": 2, "time_step_rank": 160,
          "vocab_size": 50280, "tie_word_embeddings": True}, 2.768),
    ],
)  # fmt: skip
def test_parameters_of_many_families_match(
    tmp_path: Path, config: dict[str, Any], billions: float
) -> None:
    assert of(tmp_path, config).parameter_count == pytest.approx(billions * 1e9, rel=1e-3)
