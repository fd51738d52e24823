"""TensorRT's refusals of a plan, as Triton logged them (server#317, TensorRT#564, #3130)."""

from __future__ import annotations

import pytest

from runtimes.triton.tensorrt import refusal

ENGINE = "failed to load 'm' version 1: Internal: unable to create TensorRT engine"
COMPLETE = (
    "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: unable to load plan "
    "file to auto complete config: /models/m/1/model.plan"
)


@pytest.mark.parametrize(
    ("message", "line", "said"),
    [
        (
            ENGINE,
            "E0530 23:11:46.299486 1 logging.cc:43] The engine plan file is not compatible with "
            "this version of TensorRT, expecting library version 5.1.2 got 5.1.5, please rebuild.",
            "built by TensorRT 5.1.5, and Triton has 5.1.2:",
        ),
        (
            COMPLETE,
            "E0713 10:01:02.123456 1 logging.cc:40] 6: The engine plan file is generated on an "
            "incompatible device, expecting compute 7.5 got compute 8.6, please rebuild.",
            "compute capability 8.6, and the one here has 7.5:",
        ),
        (
            COMPLETE,
            "E0713 10:01:02 1 logging.cc:40] IRuntime::deserializeCudaEngine: Error Code 6: API "
            "Usage Error (The engine plan file is generated on an incompatible device, expecting "
            "compute 8.9 got compute 8.6, please rebuild.)",
            "compute capability 8.6, and the one here has 8.9:",
        ),
        (
            COMPLETE,
            "E0730 08:46:38 1 logging.cc:43] 1: [stdArchiveReader.cpp::StdArchiveReader::40] Error "
            "Code 1: Serialization (Serialization assertion stdVersionRead == "
            "serializationVersion failed.Version tag does not match. Note: Current Version: 96, "
            "Serialized Engine Version: 97)",
            "another version of TensorRT",
        ),
        (
            ENGINE,
            "E0530 23:11:46 1 logging.cc:43] The engine plan file is not compatible with this "
            "version of TensorRT, please rebuild.",
            "built by TensorRT, and Triton has another version:",
        ),
    ],
)
def test_a_plan_for_another_version_or_gpu_is_explained_in_one_sentence(
    message: str, line: str, said: str
) -> None:
    log = ["I0530 23:11:42 1 plan_bundle.cc:206] Creating instance", line, "E0530 1 x.cc:1] failed"]
    found = refusal(message, log)
    assert said in found
    assert "build the plan again" in found
    assert "\n" not in found


def test_other_failures_are_left_alone() -> None:
    older = "E0530 1 logging.cc:43] expecting compute 7.5 got compute 8.6, please rebuild."
    assert refusal("Internal: onnx runtime error 7: INVALID_PROTOBUF", [older]) == ""
    assert refusal(ENGINE, ["I0530 1 server.cc:1] Loading"]) == ""
