"""The driver's own samples of how busy a GPU was, and each process on it. Every call blocks.

NVML keeps about six a second in a buffer of some seconds; one alone is chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml


def samples(handle: object, since: int) -> list[int]:
    """Return the percents of a GPU's utilization ``since`` (microseconds since the epoch).

    Raises:
        pynvml.NVMLError: the driver does not tell.
    """
    kind = pynvml.NVML_GPU_UTILIZATION_SAMPLES
    _type, found = _found(pynvml.nvmlDeviceGetSamples, handle, kind, since) or (0, ())
    # The buffer has a fixed size; what is not measured yet has no time.
    return [
        sample.sampleValue.uiVal
        for sample in found
        if sample.timeStamp > since and sample.sampleValue.uiVal <= 100
    ]


def process_samples(handle: object, since: int) -> list[tuple[int, int]]:
    """Return (pid, percent of the GPU's time) of processes that worked ``since``.

    One that did not is not listed. Raises as `samples`.
    """
    found = _found(pynvml.nvmlDeviceGetProcessUtilization, handle, since) or ()
    return [
        (sample.pid, sample.smUtil)
        for sample in found
        if sample.timeStamp > since and sample.smUtil <= 100
    ]


def _found(call: Callable[..., Any], *args: object) -> Any:
    """Return what ``call`` finds; ``None``: no sample, which NVML or its binding calls an error."""
    try:
        return call(*args)
    except pynvml.NVMLError as exc:
        if exc.value in (pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND):
            return None
        raise
