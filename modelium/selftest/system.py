"""Facts about this machine that explain what the other checks found. No name, address or secret."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SELECTORS = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
"""Variables that decide which GPUs a process sees. Their values are no secrets."""

CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
CONTAINER_WORDS = ("docker", "kubepods", "containerd", "libpod", "lxc")
WSL_MARK = "microsoft"


def describe(environ: Mapping[str, str], *, root: Path = Path("/")) -> dict[str, Any]:
    """Return operating system, memory, container and GPU selection, as JSON values."""
    kernel = platform.release()
    return {
        "kernel": kernel,
        "distribution": _distribution(root),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "container": _in_container(root),
        "pid_namespace_is_hosts": _sees_kernel_threads(root),
        "wsl": WSL_MARK in kernel.lower(),
        "environment": {name: environ[name] for name in SELECTORS if name in environ},
    }


def _distribution(root: Path) -> str:
    for line in _read(root / "etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "unknown"


def _in_container(root: Path) -> bool:
    if any((root / mark.lstrip("/")).exists() for mark in CONTAINER_MARKS):
        return True
    return any(word in _read(root / "proc/1/cgroup") for word in CONTAINER_WORDS)


def _sees_kernel_threads(root: Path) -> bool:
    """Whether process ids are those of the host: only there is process 2 the kernel's."""
    return _read(root / "proc/2/comm").strip() == "kthreadd"


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
