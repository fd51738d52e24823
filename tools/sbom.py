"""The bill of materials (CycloneDX 1.6, JSON) of what Modelium runs on, from its lock file.

``python tools/sbom.py`` prints it. As a build hook of hatchling it puts it into the wheel, where
PEP 770 wants it: ``modelium-VERSION.dist-info/sboms/modelium.cdx.json``.
"""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as Hook
except ImportError:  # while no wheel is built
    Hook = object

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "modelium.lock"
FILE = "modelium.cdx.json"

LINE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+))?")


def document(lock: str, project: str) -> dict[str, Any]:
    """Return the bill for the text of a lock file and of ``pyproject.toml``; the same each time."""
    known = tomllib.loads(project)["project"]
    name, version = known["name"], known["version"]
    components = list(_components(lock))
    itself = _purl(name, version)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([itself, components]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": itself,
                "name": name,
                "version": version,
                "purl": itself,
            }
        },
        "components": components,
        "dependencies": [
            {"ref": itself, "dependsOn": [component["bom-ref"] for component in components]},
        ],
        "compositions": [{"aggregate": "complete", "assemblies": [itself]}],
    }


def _components(lock: str) -> Iterator[dict[str, Any]]:
    for text in lock.replace("\\\n", " ").splitlines():
        if not (found := LINE.match(text)):
            continue
        purl = _purl(found["name"], found["version"])
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": found["name"],
            "version": found["version"],
            "purl": purl,
        }
        if found["marker"]:
            marker = found["marker"].split("--hash")[0].strip()
            component["properties"] = [{"name": "python:marker", "value": marker}]
        # Of each file that may be installed: which one it is depends on the machine.
        component["evidence"] = {
            "identity": [
                {
                    "field": "hash",
                    "methods": [
                        {"technique": "hash-comparison", "confidence": 1, "value": value}
                        for value in re.findall(r"--hash=sha256:([0-9a-f]{64})", text)
                    ],
                }
            ]
        }
        yield component


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version.replace('+', '%2B')}"


class SbomHook(Hook):
    """Adds the bill to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write it where hatchling takes it from; an editable install has none."""
        if version == "editable":
            return
        root = Path(self.root)
        made = document(
            (root / LOCK.relative_to(ROOT)).read_text(), (root / "pyproject.toml").read_text()
        )
        file = Path(tempfile.mkdtemp()) / FILE
        file.write_text(json.dumps(made, indent=1) + "\n")
        where = f"{self.metadata.name}-{self.metadata.version}.dist-info/sboms/{FILE}"
        build_data["force_include"][str(file)] = where


if __name__ == "__main__":
    print(json.dumps(document(LOCK.read_text(), (ROOT / "pyproject.toml").read_text()), indent=1))
