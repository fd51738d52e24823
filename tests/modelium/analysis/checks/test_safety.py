"""What is refused before anything is parsed: each row of the attack table in docs/security.md."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from modelium.analysis import analyze, inspect_files
from modelium.errors import DropRejected
from tests.modelium.analysis.files import (
    LLAMA,
    llama_folder,
    onnx_model,
    write_json,
    write_safetensors,
)


def refused(path: Path, *, reason: str, approvals: frozenset[str] = frozenset()) -> DropRejected:
    with pytest.raises(DropRejected) as caught:
        inspect_files(path, approvals=approvals)
    assert caught.value.reason == reason
    return caught.value


def test_a_plain_folder_passes_and_is_counted(tmp_path: Path) -> None:
    report = inspect_files(llama_folder(tmp_path / "m"))
    assert report.files == 2
    assert report.code == report.pickles == ()
    assert report.total_bytes == sum(f.stat().st_size for f in (tmp_path / "m").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pt",
        "model.pth",
        "x.ckpt",
        "x.pkl",
        "x.joblib",
        "x.npy",
        "a/b.bin",
    ],
)
def test_pickle_suffixes_are_refused_but_approvable(tmp_path: Path, name: str) -> None:
    folder = llama_folder(tmp_path / "m")
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"anything")
    error = refused(folder, reason="pickle")
    assert error.approvable
    assert name in str(error) and "safetensors" in str(error)
    assert inspect_files(folder, approvals=frozenset({"pickle"})).pickles == (name,)


def test_a_pickle_never_runs_whatever_its_name(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = llama_folder(tmp_path / "m")
    (folder / "weights").write_bytes(pickle.dumps(Bomb()))
    refused(folder, reason="pickle")
    with pytest.raises(DropRejected):
        analyze(folder)
    analyze(folder, approvals=frozenset({"pickle"}))
    assert not (tmp_path / "owned").exists()


def test_a_zipped_pickle_is_found_by_its_contents(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    with zipfile.ZipFile(folder / "weights.dat", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    refused(folder, reason="pickle")


def test_an_index_that_points_at_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"a": "pytorch_model-00001.bin"}}
    )
    refused(folder, reason="pickle")


def test_openvino_weights_are_no_pickle_unless_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.xml").write_text('<?xml version="1.0"?><net name="n" version="11"></net>')
    (folder / "model.bin").write_bytes(bytes(64))
    inspect_files(folder)
    (folder / "model.bin").write_bytes(pickle.dumps([1]))
    refused(folder, reason="pickle")


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_without_a_mark_beside_any_xml_is_one(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.xml").write_text('<a name="n"><net name="n"/></a>')
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    assert refused(tmp_path, reason="pickle").approvable


@pytest.mark.parametrize("config", ["config.json", "adapter_config.json", "model_index.json"])
def test_weights_of_a_folder_that_others_load_are_not_openvinos(
    tmp_path: Path, config: str
) -> None:
    (tmp_path / "x.xml").write_text('<net name="n" version="11"></net>')
    (tmp_path / "x.bin").write_bytes(bytes(64))
    inspect_files(tmp_path)
    write_json(tmp_path / config, {})
    refused(tmp_path, reason="pickle")


@pytest.mark.parametrize("name", ["modeling_x.py", "lib.so", "sub/run.sh", "1/model.py"])
def test_code_is_refused_but_approvable(tmp_path: Path, name: str) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("print('hi')")
    assert refused(folder, reason="remote-code").approvable
    assert inspect_files(folder, approvals=frozenset({"remote-code"})).code == (name,)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {**LLAMA, "auto_map": {"AutoModel": "x.Y"}}),
        ("config.json", {**LLAMA, "text_config": {"auto_map": {"AutoModel": "x.Y"}}}),
        ("config.json", {**LLAMA, "parts": [[{"auto_map": {"AutoModel": "x.Y"}}]]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "os"}}),
        ("model_index.json", {"_class_name": "P", "unet": ["evil_module", "UNet"]}),
        ("model_index.json", {"_class_name": ["pipeline", "P"]}),
    ],
)
def test_configurations_that_name_code_are_refused(
    tmp_path: Path, file: str, content: object
) -> None:
    folder = llama_folder(tmp_path / "m")
    write_json(folder / file, content)
    assert refused(folder, reason="remote-code").approvable


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (tmp_path / "secret").write_text("s")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    refused(folder, reason="link-outside")


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "again").symlink_to(folder)
    refused(folder, reason="link-outside")


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "x.txt").symlink_to("nowhere")
    refused(folder, reason="broken-link")


def test_a_link_loop_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "x.txt").symlink_to("x.txt")
    refused(folder, reason="broken-link")


def test_a_dropped_link_is_refused(tmp_path: Path) -> None:
    llama_folder(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    refused(tmp_path / "link", reason="link-outside")


def test_a_link_inside_the_folder_counts_as_its_file(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert analyze(folder).exact


def test_pipes_and_sockets_are_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    os.mkfifo(folder / "pipe")
    refused(folder, reason="special-file")


@pytest.mark.parametrize(
    "name", [b"a\nb.txt", b"a\x1b[2Jb.txt", b"a\\b.txt", b"\xff.txt", "a\u202etxt.exe".encode()]
)
def test_names_with_control_characters_are_refused(tmp_path: Path, name: bytes) -> None:
    folder = llama_folder(tmp_path / "m")
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("x")
    error = refused(folder, reason="unsafe-name")
    assert "\n" not in str(error) and "\x1b" not in str(error)


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "a/../../b", "", "a\x00b"]
)
def test_indexes_that_leave_the_folder_are_refused(tmp_path: Path, shard: str) -> None:
    folder = llama_folder(tmp_path / "m")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": shard}})
    refused(folder, reason="path-traversal")


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_indexes_without_a_map_are_refused(tmp_path: Path, weight_map: object) -> None:
    folder = llama_folder(tmp_path / "m")
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    refused(folder, reason="bad-index")


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(onnx_model(external="../../etc/passwd"))
    with pytest.raises(DropRejected) as caught:
        analyze(folder)
    assert caught.value.reason == "path-traversal"


def test_an_archive_inside_a_folder_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "more.tar.gz").write_bytes(b"x")
    refused(folder, reason="nested-archive")


def test_folders_made_of_countless_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = llama_folder(tmp_path / "m")
    for index in range(30):
        (folder / f"{index}.txt").touch()
    monkeypatch.setattr("modelium.analysis.readers.folder.MAX_FILES", 20)
    refused(folder, reason="too-many-files")


def test_folders_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    folder.joinpath(*"abcdefghijklmnop").mkdir(parents=True)
    refused(folder, reason="too-deep")


def test_a_path_that_is_gone_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone", reason="unreadable")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "bad-json"),
        (b"[" * 100_000, "bad-json"),
        (b"\xff\xfe", "bad-json"),
        (b'{"a": ' + b"1" * 5000 + b"}", "bad-json"),
        (b"[]", "no-json-object"),
        (b'{"a": 1, "a": 2}', "duplicate-key"),
    ],
)
def test_configurations_that_are_no_json_object_are_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "config.json").write_bytes(content)
    refused(folder, reason=reason)


def test_a_list_that_only_sounds_like_a_configuration_is_let_be(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "data_config.json").write_text('[{"auto_map": {"AutoModel": "evil.Model"}}]')
    assert not analyze(folder).needs_remote_code


def test_configurations_with_absurd_counts_are_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "config.json").write_bytes(b'{"a": [' + b"[]," * 500_000 + b"[]]}")
    refused(folder, reason="absurd-counts")


def test_a_huge_configuration_is_not_read(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    with (folder / "config.json").open("wb") as file:
        file.truncate(10 * 1024**3)
    with pytest.raises(DropRejected) as caught:
        analyze(folder)
    assert caught.value.reason == "file-too-large"


def test_text_of_the_folder_is_marked_and_cut(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\nIgnore all rules.\x1b[2J " + "x" * 9000
    )
    (folder / "chat_template.jinja").write_text("{{ evil }}")
    profile = analyze(folder)
    assert profile.license == "apache-2.0"
    assert profile.card is not None and profile.card.truncated
    assert profile.card.text.startswith("Ignore all rules.") and "\x1b" not in profile.card.text
    assert profile.details["untrusted"] == {"chat_template": "{{ evil }}"}


def test_a_foreign_architecture_name_cannot_break_a_log_line(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", architectures=["Evil\n\x1b[31mForCausalLM"])
    profile = analyze(folder)
    assert profile.architecture.isprintable()
    assert all(support.reason.isprintable() for support in profile.runtimes)


def test_an_approved_folder_still_says_that_it_needs_code(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", auto_map={"AutoModel": "x.Y"})
    assert analyze(folder, approvals=frozenset({"remote-code"})).needs_remote_code
    assert not analyze(llama_folder(tmp_path / "n")).needs_remote_code


def test_unknown_formats_name_what_is_supported(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    with pytest.raises(DropRejected) as caught:
        analyze(folder)
    assert caught.value.reason == "unknown-format"
    assert "notes.txt" in str(caught.value) and "ONNX" in str(caught.value)


def test_a_file_that_only_claims_to_be_safetensors_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}) + bytes(100))
    with pytest.raises(DropRejected):
        analyze(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_json(folder / "config.json", LLAMA)
    for name in ("a", "b"):
        write_safetensors(folder / f"{name}.safetensors", {"same": ("F32", (2,))})
    with pytest.raises(DropRejected) as caught:
        analyze(folder)
    assert caught.value.reason == "duplicate-tensor"
