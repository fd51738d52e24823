"""The self-test: what only the user's own machine can show, in about ten minutes.

It asks NVML and CUDA about each GPU, and has each enabled runtime load, answer and unload a tiny
model through a whole service. Its report can be attached to a bug report; the NVML part of it is a
fixture of the fake NVML library of the tests.
"""

from modelium.selftest.report import Check, SelfTestReport
from modelium.selftest.run import run

__all__ = ["Check", "SelfTestReport", "run"]
