"""What must hold whatever happens, looked at from outside.

The checker takes nobody's word: it reads the database file, the folders, the process table and
what a client wrote down. It imports nothing of Modelium, so that no bug of it is shared.
"""

from tests.invariants.check import Drop, Scene, violations

__all__ = ["Drop", "Scene", "violations"]
