"""The core: what the words mean, what is known, and what is running.

Importing this package does no I/O and starts nothing.
"""

__version__ = "0.1.0"
