"""Compares the estimator, and simple rules, with the memory that vLLM reported.

Every model is left out once: constants are fitted to the other models and used to predict the one
that was left out, so that the score is for unseen models. Run from the repository root:

    python -m bench.estimator [--data FOLDER] [--write FILE.json]

FOLDER contains ``vllm_memory_measurements.csv`` and ``model_configs/``.

Units: GiB per GPU. "footprint" is weights + activation + non-torch + CUDA graphs. The KV pool is
whatever remains of a GPU and is therefore not predicted.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelium.analysis import analyze
from modelium.analysis.memory.engine_constants import VllmConstants, vllm_constants
from modelium.analysis.memory.vllm import vllm_footprint
from modelium.errors import DropRejected
from modelium.models import GIB, Footprint, ModelProfile

PARTS = ("weights", "activation", "non_torch", "cuda_graph")
DATA = Path(__file__).parents[2] / "shared" / "data"
SHORT = 0.98
"""Predictions below this share of the true value are short: they risk an out-of-memory error."""

_LLAMA8: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "codellama/CodeLlama-7b-hf": {**_LLAMA8, "intermediate_size": 11008, "num_key_value_heads": 32,
        "vocab_size": 32016, "max_position_embeddings": 16384, "rope_scaling": None},
    "google/gemma-7b": {
        "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_size": 3072,
        "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000,
        "max_position_embeddings": 8192, "torch_dtype": "bfloat16"},
    "google/gemma-3-12b-it": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "mm_tokens_per_image": 256, "torch_dtype": "bfloat16",
        "text_config": {"model_type": "gemma3_text", "hidden_size": 3840,
            "intermediate_size": 15360, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 262208,
            "max_position_embeddings": 131072, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152,
            "intermediate_size": 4304, "num_hidden_layers": 27, "patch_size": 14,
            "image_size": 896}},
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA8,
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16": {**_LLAMA8, "quantization_config": {
        "quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}},
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8": {**_LLAMA8, "quantization_config": {
        "quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel",
                "symmetric": True}}}}},
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": {
        "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
        "torch_dtype": "bfloat16",
        "text_config": {"model_type": "llama4_text", "hidden_size": 5120,
            "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
            "max_position_embeddings": 10485760, "vocab_size": 202048,
            "tie_word_embeddings": False},
        "vision_config": {"model_type": "llama4_vision_model", "hidden_size": 1408,
            "intermediate_size": 5632, "num_hidden_layers": 34, "patch_size": 14,
            "image_size": 336, "pixel_shuffle_ratio": 0.5, "projector_input_dim": 4096,
            "projector_output_dim": 4096}},
    "microsoft/phi-2": {
        "architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_size": 2560,
        "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 51200, "max_position_embeddings": 2048, "partial_rotary_factor": 0.4,
        "tie_word_embeddings": False, "torch_dtype": "float16"},
    "moonshotai/Kimi-VL-A3B-Instruct": {
        "architectures": ["KimiVLForConditionalGeneration"], "model_type": "kimi_vl",
        "torch_dtype": "bfloat16",
        "text_config": {"model_type": "deepseek_v3", "hidden_size": 2048,
            "intermediate_size": 11264, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
            "num_attention_heads": 16, "num_key_value_heads": 16, "n_routed_experts": 64,
            "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
            "moe_layer_freq": 1, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 163840,
            "max_position_embeddings": 131072, "tie_word_embeddings": False},
        "vision_config": {"model_type": "moonvit", "hidden_size": 1152, "num_hidden_layers": 27,
            "intermediate_size": 4304, "patch_size": 14, "merge_kernel_size": [2, 2]}},
    "facebook/opt-125m": {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 768,
        "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50272,
        "max_position_embeddings": 2048, "word_embed_proj_dim": 768, "torch_dtype": "float16"},
}  # fmt: skip
"""Published configurations of measured models whose files were not collected."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement with the profile of its model."""

    model: str
    version: str
    tensor_parallel: int
    dtype: str | None
    kv_dtype: str | None
    max_model_len: int | None
    quantization: str | None
    profile: ModelProfile
    truth: dict[str, float]
    """Part → GiB; parts that were not published are absent."""
    kv_bytes_per_token: float | None

    @property
    def footprint(self) -> float | None:
        """GiB; ``None``: not every part was published."""
        if not all(part in self.truth for part in PARTS):
            return None
        return sum(self.truth[part] for part in PARTS)


def read_rows(measurements: Path, configs: Path) -> tuple[list[Row], list[str]]:
    """Return the rows that have a configuration, and the reasons why others are skipped."""
    rows: list[Row] = []
    aside: list[str] = []
    with measurements.open(newline="") as file:
        for record in csv.DictReader(file):
            label = f"{record['model']} (row {record['id']})"
            if int(record["pp"] or 1) > 1:
                aside.append(f"{label}: pipeline parallelism is not supported")
                continue
            profile = _profile(record, configs)
            if isinstance(profile, str):
                aside.append(f"{label}: {profile}")
                continue
            rows.append(_row(record, profile))
    return rows, aside


def _profile(record: Mapping[str, str], configs: Path) -> ModelProfile | str:
    config: dict[str, Any] | None = PUBLISHED.get(record["model"])
    collected = configs / (record["config_file"] or "-")
    if config is None and collected.is_file():
        config = json.loads(collected.read_text())
    if config is None:
        return "its configuration was not collected"
    if record["quant"] == "awq_marlin":
        config = {**config, "quantization_config": {"quant_method": "awq", "bits": 4,
                  "group_size": 64, "zero_point": True}}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        try:
            return analyze(path, approvals=frozenset({"remote-code"}))
        except DropRejected as exc:
            return str(exc)


def _row(record: Mapping[str, str], profile: ModelProfile) -> Row:
    truth = {part: float(record[f"{part}_gib"]) for part in PARTS if record[f"{part}_gib"]}
    tokens = float(record["kv_tokens"] or 0)
    pool = float(record["kv_pool_gib"] or 0)
    return Row(
        model=record["model"],
        version=record["engine_version"].strip("~"),
        tensor_parallel=int(record["tp"]),
        dtype=record["dtype"] or None,
        kv_dtype=record["kv_dtype"] or None,
        max_model_len=int(record["max_model_len"]) if record["max_model_len"] else None,
        quantization="fp8" if record["quant"] == "fp8" else None,
        profile=profile,
        truth=truth,
        kv_bytes_per_token=pool * GIB / tokens if tokens else None,
    )


def predict(row: Row, constants: VllmConstants) -> Footprint:
    """Return the estimate for ``row``, without CUDA's context as in vLLM's reports."""
    return vllm_footprint(
        row.profile,
        constants.model_copy(update={"context": 0}),
        tensor_parallel=row.tensor_parallel,
        dtype=row.dtype,
        kv_dtype=row.kv_dtype,
        max_model_len=row.max_model_len,
        quantization=row.quantization,
    )


def gib(footprint: Footprint) -> float:
    """Return the sum of weights, activation, graphs and non-torch memory."""
    return (footprint.expected - footprint.kv) / GIB


def refit(rows: Sequence[Row], version: str) -> VllmConstants:
    """Return the constants of ``version``, fitted to ``rows`` by medians of physical terms."""
    base = vllm_constants(version, None)
    same = [r for r in rows if vllm_constants(r.version, None) == base]
    return base.model_copy(
        update={**_sampler(same, base), **_graphs(same, base), **_non_torch(same)}
    )


def _sampler(rows: Sequence[Row], base: VllmConstants) -> dict[str, Any]:
    """Fit the bytes per logit to rows in which the sampler is the peak, as all else is known."""
    slopes, fixed = [], base.sampler_fixed
    for row in rows:
        if "activation" not in row.truth:
            continue
        zero = base.model_copy(update={"sampler_bytes": 0.0, "sampler_fixed": 0})
        with_base = predict(row, base).activation
        logits = base.sequences * (row.profile.vocabulary_size or 0)
        known = with_base - int(logits * base.sampler_bytes) - fixed
        if known <= 0 or with_base <= predict(row, zero).activation:
            continue
        slopes.append((row.truth["activation"] * GIB - known - fixed) / logits)
    return {"sampler_bytes": statistics.median(slopes)} if slopes else {}


def _graphs(rows: Sequence[Row], base: VllmConstants) -> dict[str, Any]:
    """Scale the constants of graph memory by the median over model families."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.truth.get("cuda_graph", 0) > 0:
            ratio = row.truth["cuda_graph"] * GIB / predict(row, base).graphs
            ratios.setdefault(family(row.model), []).append(ratio)
    if len(ratios) < 4:
        return {}
    scale = statistics.median(statistics.fmean(found) for found in ratios.values())
    names = ("graph_fixed", "graph_per_layer", "graph_per_width", "graph_per_expert_layer")
    return {name: int(getattr(base, name) * scale) for name in names}


def _non_torch(rows: Sequence[Row]) -> dict[str, Any]:
    def typical(degree: int) -> float | None:
        found = [
            r.truth["non_torch"] for r in rows
            if r.tensor_parallel == degree and "non_torch" in r.truth
        ]  # fmt: skip
        return statistics.median(found) * GIB if found else None

    one, two, four = typical(1), typical(2), typical(4)
    if one is None or two is None or four is None:
        return {}
    return {"non_torch": (int(one), int(two), int((four - two) / 2))}


Rule = Callable[[Row, float], float]
RULES: dict[str, Rule] = {
    "weights only": lambda row, w: w,
    "1.2 × weights + 2": lambda row, w: 1.2 * w + 2,
    "weights + 2.2 + 0.25/2.1": lambda row, w: (
        w + 2.2 + (0.25 if row.tensor_parallel == 1 else 2.1)
    ),
}
"""Simple rules, applied to the true weights (of accelerate, of GPUStack, fitted to these rows)."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Relative errors of a prediction method."""

    name: str
    errors: list[float]

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return statistics.fmean(map(abs, self.errors))

    @property
    def bias(self) -> float:
        """Mean error; above 0 is an overestimate."""
        return statistics.fmean(self.errors)

    @property
    def short(self) -> float:
        """Share of predictions that are more than 2% short."""
        return sum(e < SHORT - 1 for e in self.errors) / len(self.errors)


def leave_one_out(rows: Sequence[Row]) -> list[tuple[Row, Footprint]]:
    """Predict each row with constants that were fitted without the rows of its model."""
    found = []
    for row in rows:
        others = [r for r in rows if family(r.model) != family(row.model)]
        found.append((row, predict(row, refit(others, row.version))))
    return found


def family(model: str) -> str:
    """Return the model without variants: quantized copies count as the original model."""
    for known in ("Llama-3.1-8B", "Qwen3-32B", "Kimi-VL"):
        if known in model:
            return known
    return model


def scores(predictions: Iterable[tuple[Row, Footprint]]) -> list[Score]:
    """Return the footprint scores: the estimator's (expected and reserve), then the rules'."""
    expected, reserve = [], []
    rules: dict[str, list[float]] = {name: [] for name in RULES}
    for row, made in predictions:
        truth = row.footprint
        if truth is None:
            continue
        expected.append(gib(made) / truth - 1)
        reserve.append((made.reserve - made.kv) / GIB / truth - 1)
        for name, rule in RULES.items():
            rules[name].append(rule(row, row.truth["weights"]) / truth - 1)
    return [
        Score(name="modelium expected", errors=expected),
        Score(name="modelium reserve", errors=reserve),
        *(Score(name=name, errors=errors) for name, errors in rules.items()),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="measurements and configurations")
    parser.add_argument("--write", type=Path, help="write the totals to this file as JSON")
    given = parser.parse_args()
    measurements = given.data / "vllm_memory_measurements.csv"
    if not measurements.is_file():
        parser.error(f"{measurements} is missing: pass its folder with --data")
    rows, aside = read_rows(measurements, given.data / "model_configs")
    predictions = leave_one_out(rows)
    heads = f"{'weights':>20} {'activation':>12} {'non-torch':>12} {'graphs':>12}"
    print(f"{'model':44} {'vLLM':6} TP{heads} footprint")
    weight_errors: dict[str, list[float]] = {}
    for row, made in predictions:
        truth = row.truth
        error = made.weights / GIB / truth["weights"] - 1
        weight_errors.setdefault(row.model, []).append(error)
        pairs = [
            f"{truth.get(part, float('nan')):5.2f}→{value / GIB:5.2f}"
            for part, value in (
                ("activation", made.activation), ("non_torch", made.non_torch),
                ("cuda_graph", made.graphs),
            )
        ]  # fmt: skip
        total = f"{gib(made) / row.footprint - 1:+7.1%}" if row.footprint else "      –"
        weights = f"{truth['weights']:6.2f}→{made.weights / GIB:6.2f}{error:+7.2%}"
        print(
            f"{row.model[-44:]:44} {row.version:6} {row.tensor_parallel:2} "
            f"{weights} {' '.join(pairs)} {total}"
        )
    by_model = [statistics.fmean(map(abs, errors)) for errors in weight_errors.values()]
    every = [abs(e) for errors in weight_errors.values() for e in errors]
    print(f"\nweights: {statistics.fmean(every):.2%} mean absolute error over rows, ")
    print(f"         {statistics.fmean(by_model):.2%} over models ({len(by_model)})")
    kv = [
        (row.profile.kv_bytes_per_token or 0) / row.tensor_parallel
        / (2 if row.kv_dtype == "fp8" else 1) * (2 if row.dtype == "float32" else 1)
        / row.kv_bytes_per_token - 1
        for row, _ in predictions
        if row.kv_bytes_per_token and not (row.profile.kv and row.profile.kv.latent_dim)
    ]  # fmt: skip
    print(
        f"KV per token: {statistics.fmean(map(abs, kv)):.2%} mean absolute error ({len(kv)} rows)\n"
    )
    current = [p for p in predictions if p[0].version.startswith("0.19")]
    totals: dict[str, dict[str, float]] = {}
    for title, chosen in (("all versions", predictions), ("0.19 alone", current)):
        print(f"footprint, {title}{'':20}MAE    bias   short > 2%")
        for score in scores(chosen):
            print(f"  {score.name:32} {score.mean:7.1%} {score.bias:+7.1%} {score.short:8.1%}")
            totals[f"{title}: {score.name}"] = {
                "mae": score.mean, "bias": score.bias, "short": score.short,
            }  # fmt: skip
    for line in aside:
        print(f"skipped: {line}")
    print("\nfitted on all rows of 0.19:", refit(rows, "0.19").model_dump())
    if given.write:
        given.write.write_text(json.dumps(totals, indent=1))


if __name__ == "__main__":
    main()
