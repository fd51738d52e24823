"""Which files count as pickles or code, and in which order drops are refused."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from modelium.analysis.checks.safety import (
    ARCHIVE_SUFFIXES,
    PICKLE_SUFFIXES,
    TEXT_SUFFIXES,
    SafetyReport,
    inspect_files,
)
from modelium.analysis.readers.zip_directory import MAX_DIRECTORY_BYTES
from modelium.errors import DropRejected
from tests.modelium.analysis.files import write_json

ALL = frozenset({"pickle", "remote-code"})
PICKLED = pickle.dumps([1])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def put(root: Path, *names: str, data: bytes = b"xx") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def pickles(root: Path) -> tuple[str, ...]:
    return inspect_files(root, approvals=ALL).pickles


def code(root: Path) -> tuple[str, ...]:
    return inspect_files(root, approvals=ALL).code


def refused(root: Path, *approvals: str) -> DropRejected:
    with pytest.raises(DropRejected) as caught:
        inspect_files(root, approvals=frozenset(approvals))
    return caught.value


def test_what_is_refused_first(root: Path) -> None:
    put(root, "a.pkl", "b.pt", "c.py", "d.zip", "e.tar")
    error = refused(root, "remote-code")
    assert (str(error), error.reason, error.approvable) == (
        "'a.pkl' (and 1 more) is pickle-based: opening it can run code. Convert the weights to "
        "safetensors or ONNX and delete it, or have an operator approve `pickle` for this model.",
        "pickle",
        True,
    )
    error = refused(root, "pickle")
    assert (str(error), error.reason, error.approvable) == (
        "'c.py' is or names code that a runtime would run. Remove it (and `auto_map`) if the "
        "runtime supports the architecture, or have an operator approve `remote-code` for this "
        "model.",
        "remote-code",
        True,
    )
    error = refused(root, "pickle", "remote-code")
    assert (str(error), error.reason, error.approvable) == (
        "'d.zip' is an archive inside a folder. Drop its contents, or the archive alone.",
        "nested-archive",
        False,
    )
    for name in ("d.zip", "e.tar"):
        (root / name).unlink()
    assert inspect_files(root, approvals=ALL) == SafetyReport(
        files=3, total_bytes=6, code=("c.py",), pickles=("a.pkl", "b.pt")
    )
    (root / "b.pt").unlink()
    assert str(refused(root)).startswith("'a.pkl' is pickle-based")


def test_modules_outside_are_refused_before_code(root: Path) -> None:
    put(root, "c.py")
    write_json(root / "modules.json", [{"path": "../x"}])
    assert refused(root).reason == "path-traversal"


def test_a_link_is_named_as_it_is(tmp_path: Path, root: Path) -> None:
    (tmp_path / "l\n").symlink_to(root)
    error = refused(tmp_path / "l\n")
    assert (str(error), error.reason) == ("'l?' is a link. Drop the folder itself.", "link-outside")


@pytest.mark.parametrize("suffix", sorted(ARCHIVE_SUFFIXES))
def test_archives_are_known_by_their_endings(root: Path, suffix: str) -> None:
    put(root, f"a{suffix.upper()}")
    assert refused(root).reason == "nested-archive"


def test_pickles_are_known_by_their_endings(root: Path) -> None:
    names = sorted(f"a{suffix.upper()}" for suffix in PICKLE_SUFFIXES)
    put(root, *names, "apt", "b.safetensors2")
    assert pickles(root) == tuple(names)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", False),
        (b"\x80", False),
        (b"\x80\x01x", False),
        *((bytes([0x80, protocol]), True) for protocol in (2, 3, 4, 5)),
        (b"\x80\x06x", False),
        (b"x\x80\x04", False),
        (PICKLED, True),
        (b"PK", False),
        (b"PK\x03\x04" + bytes(100), False),
    ],
)
def test_pickles_are_known_by_their_first_bytes(root: Path, data: bytes, found: bool) -> None:
    put(root, "a", "b.dat", data=data)
    put(root, *(f"c{suffix}" for suffix in TEXT_SUFFIXES - {".json"}), data=data)
    assert pickles(root) == (("a", "b.dat") if found else ())


def test_a_zip_is_looked_into(root: Path) -> None:
    zipped(root / "a", "x.txt", "data.pkl", "y.txt")
    zipped(root / "b", "x.txt")
    zipped(root / "c", "pkl", "x.pkl.txt")
    (root / "d").write_bytes(b"x" + (root / "a").read_bytes())
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, MAX_DIRECTORY_BYTES + 1, 0, 0)
    put(root, "e", data=b"PK\3\4" + end)
    assert pickles(root) == ("a", "e")


@pytest.mark.parametrize(
    ("name", "beside", "data", "found"),
    [
        ("m.bin", "m.xml", b"weights", False),
        ("sub/m.bin", "sub/m.xml", b"weights", False),
        ("m.bin", "m.xml", PICKLED, True),
        ("m.bin", "m.xml", b"PK\3\4", True),
        ("m.bin", "n.xml", b"weights", True),
        ("sub/m.bin", "m.xml", b"weights", True),
        ("pytorch_model.bin", "pytorch_model.xml", b"weights", True),
        ("sub/pytorch_model-1.bin", "sub/pytorch_model-1.xml", b"weights", True),
        ("pytorch_model/m.bin", "pytorch_model/m.xml", b"weights", False),
        ("m.BIN", "m.xml", b"weights", True),
    ],
)
def test_weights_of_openvino_are_no_pickle(
    root: Path, name: str, beside: str, data: bytes, found: bool
) -> None:
    put(root, name, data=data)
    put(root, beside, data=b'<net name="n"/>')
    assert pickles(root) == ((name,) if found else ())


def test_an_index_may_point_at_pickles(root: Path) -> None:
    put(root, "a.json", "z.pt")
    weight_map = {"1": "x.BIN", "2": "a.safetensors", "3": "a.pt"}
    write_json(root / "b.index.json", {"weight_map": weight_map})
    assert pickles(root) == ("z.pt", "b.index.json → a.pt", "b.index.json → x.BIN")


def test_configurations_that_name_code(root: Path) -> None:
    write_json(root / "a_config.json", {"auto_map": {"x": "y"}})
    write_json(root / "b_config.json", {"auto_mapping": {"parent_library": "os"}})
    write_json(root / "c_config.json", {})
    write_json(root / "other.json", {"auto_map": {"x": "y"}})
    put(root, "d_config.json", data=b"[]")
    put(root, "lib.so", "serve.yaml")
    write_json(
        root / "model_index.json", {"_class_name": ["p", "P"], "u": ["evil", "U"], "v": ["os", "V"]}
    )
    put(root, "config.pbtxt", data=b'backend: "python"')
    assert code(root) == (
        "lib.so",
        "a_config.json (auto_map)",
        "b_config.json (auto_mapping)",
        "serve.yaml (import_path)",
        "model_index.json (u)",
        "model_index.json (v)",
        "model_index.json (_class_name)",
        "config.pbtxt (backend python)",
    )


def test_only_what_is_named_so_may_be_no_object(root: Path) -> None:
    put(root, "a_config.json", data=b"[]")
    write_json(root / "b_config.json", {"auto_map": {"x": "y"}})
    assert code(root) == ("b_config.json (auto_map)",)
    put(root, "sub/config.json", data=b"[]")
    assert refused(root).reason == "no-json-object"
    (root / "sub" / "config.json").unlink()
    put(root, "a_config.json", data=b"{")
    assert refused(root).reason == "bad-json"
