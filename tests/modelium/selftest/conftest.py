"""Fixtures of the fake NVIDIA libraries."""

from tests.fakes.cuda import cuda_library, fake_cuda
from tests.fakes.nvml import fake_nvml, nvml_library

__all__ = ["cuda_library", "fake_cuda", "fake_nvml", "nvml_library"]
