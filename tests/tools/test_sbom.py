"""The bill of materials names what the lock file pins (that wheels have it: `tests/integration/test_pages.py`)."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
document = runpy.run_path(str(ROOT / "tools/sbom.py"))["document"]
LOCK = (ROOT / "requirements/modelium.lock").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


def test_every_pinned_package_is_in_it_with_its_hashes_and_nothing_else() -> None:
    made = document(LOCK, PROJECT)
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)", LOCK, re.MULTILINE))
    assert len(pinned) > 100
    assert {c["name"]: c["version"] for c in made["components"]} == pinned
    hashes = {
        method["value"]
        for component in made["components"]
        for identity in component["evidence"]["identity"]
        for method in identity["methods"]
    }
    assert hashes == set(re.findall(r"--hash=sha256:(\S+)", LOCK))


def test_it_has_the_form_of_cyclonedx_and_is_the_same_each_time() -> None:
    made = document(LOCK, PROJECT)
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", made["serialNumber"])
    references = [component["bom-ref"] for component in made["components"]]
    assert len(set(references)) == len(references)
    (itself,) = made["dependencies"]
    assert itself["dependsOn"] == references
    assert itself["ref"] == made["metadata"]["component"]["bom-ref"] == "pkg:pypi/modelium@0.1.0"
    assert all(re.fullmatch(r"pkg:pypi/[a-z0-9-]+@\S+", purl) for purl in references)
    assert document(LOCK, PROJECT) == made


def test_markers_and_local_versions_are_kept() -> None:
    lock = f"A_b.c==1.0+cpu ; sys_platform == 'linux' \\\n    --hash=sha256:{'0' * 64}\n"
    (component,) = document(lock, PROJECT)["components"]
    assert component["purl"] == "pkg:pypi/a-b-c@1.0%2Bcpu"
    assert component["properties"] == [
        {"name": "python:marker", "value": "sys_platform == 'linux'"}
    ]
