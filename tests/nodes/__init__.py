"""Several nodes in one process: the real store, planner, stages and loops over engines in memory.

The benchmark of many machines runs them in real time, tests in that of a clock of their own.
"""

from tests.nodes.machine import GPUS, Machine
from tests.nodes.node import SimulatedNode, files_of, registered, text_model

__all__ = ["GPUS", "Machine", "SimulatedNode", "files_of", "registered", "text_model"]
