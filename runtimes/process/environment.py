"""The environment of engine processes: what they inherit, and their PATH (no I/O but a link)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
        *("LD_LIBRARY_PATH", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        # Compilers: engines build kernels while they start.
        *("CC", "CXX", "CUDAHOSTCXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"),
        *("LIBRARY_PATH", "MAX_JOBS"),
        *("HF_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HUGGINGFACE_HUB_CACHE"),
        *("VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "VLLM_LOGGING_LEVEL", "VLLM_ATTENTION_BACKEND"),
    }
)
PREFIXES = (
    *("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_"),
    *("TORCH", "PYTORCH_", "TRITON_", "FLASHINFER_"),
)
"""Variables that engines inherit; others may hold secrets or the settings of another Python."""
OWN = frozenset({"CUDA_VISIBLE_DEVICES"})
"""What Modelium decides for each engine."""
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``environ`` that an engine gets; GPUs are numbered as NVML's are."""
    kept = {
        name: value
        for name, value in environ.items()
        if (name in INHERITED or name.startswith(PREFIXES))
        and name not in OWN
        and not SECRET.search(name)
    }
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | kept


def with_tools(path: str, command: str) -> str:
    """Return ``path`` with the folders of ``command`` before it, as an activated environment has.

    Engines call tools of their own environment by name, such as ninja.
    """
    found = Path(command)
    if not found.is_absolute():
        return path
    places = path.split(os.pathsep) if path else []
    folders = dict.fromkeys(str(one.parent) for one in (found, found.resolve()))
    return os.pathsep.join([*(folder for folder in folders if folder not in places), *places])
