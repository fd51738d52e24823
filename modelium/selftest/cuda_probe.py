"""Asks the CUDA driver about GPUs, in a process of its own: only its end gives the memory back.

Run as a script: ``list`` prints the GPUs in CUDA's order, ``hold INDEX BYTES`` allocates memory
and holds it until its standard input is closed. Each prints one line of JSON. It imports nothing
of Modelium and needs ``libcuda`` alone, which comes with the NVIDIA driver.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

PCI_BUS_ID_LENGTH, NAME_LENGTH = 32, 256


class CudaError(Exception):
    """A call of the driver API failed."""


class Driver:
    """The calls of libcuda that are used here."""

    def __init__(self) -> None:
        """Load and initialize libcuda; raises ``OSError`` or `CudaError`."""
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call the function ``name``."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            said = text.value.decode() if text.value else f"error {code}"
            raise CudaError(f"{name}: {said}")

    def devices(self) -> list[dict[str, Any]]:
        """Return the GPUs that this process sees, in CUDA's order."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return [self._device(index) for index in range(count.value)]

    def _device(self, index: int) -> dict[str, Any]:
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        name = ctypes.create_string_buffer(NAME_LENGTH)
        self.call("cuDeviceGetName", name, NAME_LENGTH, device)
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid", ctypes.byref(raw), device)
        bus = ctypes.create_string_buffer(PCI_BUS_ID_LENGTH)
        self.call("cuDeviceGetPCIBusId", bus, PCI_BUS_ID_LENGTH, device)
        total = ctypes.c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
        return {
            "index": index,
            "name": name.value.decode(),
            "uuid": f"GPU-{uuid.UUID(bytes=bytes(raw))}",
            "pci": bus.value.decode(),
            "total_bytes": total.value,
        }

    def allocate(self, index: int, size: int) -> None:
        """Allocate ``size`` bytes on a GPU until the process ends."""
        device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        self.call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))


def main(arguments: list[str]) -> None:
    """Run one command; a failure is printed as ``{"error": …}``."""
    try:
        driver = Driver()
        if arguments[0] == "list":
            print(json.dumps({"devices": driver.devices()}), flush=True)
            return
        driver.allocate(int(arguments[1]), int(arguments[2]))
        print(json.dumps({"held_bytes": int(arguments[2])}), flush=True)
        sys.stdin.read()
    except (CudaError, OSError, AttributeError) as exc:
        print(json.dumps({"error": str(exc)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
