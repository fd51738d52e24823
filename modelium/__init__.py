"""The core: domain types, state and services.

Importing this package does no I/O and starts nothing.
"""

__version__ = "0.1.0"
