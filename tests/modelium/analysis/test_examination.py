import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import EngineCatalog, analyze, examine, inspect_files, is_complete
from modelium.errors import DropRejected
from modelium.models import RuntimeName
from tests.modelium.analysis.files import LLAMA, llama_folder, write_json, write_safetensors

pytestmark = pytest.mark.slow

SHARDS = 100
TENSORS = 300
SIDE = 3424
"""100 shards of 300 matrices of 3424² in bfloat16: 703 GB."""


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    weight_map: dict[str, Any] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names = [f"model.layers.0.mlp.experts.{shard}.{i}.weight" for i in range(TENSORS)]
        write_safetensors(tmp_path / file, {name: ("BF16", (SIDE, SIDE)) for name in names})
        weight_map |= dict.fromkeys(names, file)
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    write_json(tmp_path / "config.json", LLAMA)
    return tmp_path


def read_bytes() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_only_headers_of_700_gigabytes_are_read_and_each_once(huge: Path) -> None:
    headers = sum(
        8 + int.from_bytes(f.open("rb").read(8), "little") for f in huge.glob("*.safetensors")
    )
    other = sum(f.stat().st_size for f in huge.glob("*.json"))
    tracemalloc.start()
    before = read_bytes()
    found = examine(huge)
    read = read_bytes() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.missing is None
    assert found.profile is not None
    assert found.profile.weight_bytes == SHARDS * TENSORS * math.prod((SIDE, SIDE)) * 2 > 700e9
    assert peak < 100 * 1024**2
    # A second reading of the headers alone, or of the index alone, would be over this.
    assert read < 1.2 * (headers + other)


def test_complete_drop_has_a_profile_and_a_safety_report(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=3)
    found = examine(folder)
    assert found.missing is None
    assert found.profile == analyze(folder)
    assert found.safety == inspect_files(folder)
    assert found.safety.files == 5


def test_incomplete_drop_has_no_profile(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    found = examine(folder)
    assert found.profile is None
    assert found.missing == is_complete(folder)
    assert "model-00002-of-00003.safetensors" in (found.missing or "")


def test_empty_folder_is_incomplete(tmp_path: Path) -> None:
    assert examine(tmp_path).missing == "the folder is empty"


def test_unsafe_drop_is_refused_even_where_it_is_incomplete(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    (folder / "modeling.py").write_text("")
    with pytest.raises(DropRejected) as refused:
        examine(folder)
    assert refused.value.reason == "remote-code"
    assert refused.value.approvable


def test_approved_pickles_are_in_report_and_profile(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    found = examine(folder, approvals=frozenset({"pickle"}))
    assert found.safety.pickles == ("pytorch_model.bin",)
    assert found.profile is not None
    assert found.profile.details["pickle"] is True


def test_complete_drop_of_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DropRejected) as refused:
        examine(tmp_path)
    assert refused.value.reason == "unknown-format"


def test_linked_drop_is_refused_but_may_be_analyzed(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(DropRejected) as refused:
        examine(link)
    assert refused.value.reason == "link-outside"
    assert analyze(link) == analyze(folder)


def test_installed_engines_decide_which_runtimes_are_supported(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    without = EngineCatalog(vllm_architectures=frozenset({"Other"}))
    for engines, supported in ((None, True), (without, False)):
        profile = examine(folder, engines=engines).profile
        assert profile is not None
        assert profile.support(RuntimeName.VLLM).supported is supported


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = llama_folder(tmp_path / "m")
    write_json(folder / "extra" / "notes.json", {})
    listed: list[str] = []
    scandir = os.scandir

    def counted(path: Path) -> Any:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    examine(folder)
    assert sorted(listed) == [str(folder), str(folder / "extra")]
