"""The Serve application that a load results in."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.analysis.catalog import EngineCatalog, assess
from modelium.errors import FailureKind, LoadFailed, NeedsApproval, Unsupported
from modelium.models import (
    Device,
    LoadSettings,
    ModelFormat,
    ModelProfile,
    RuntimeName,
    Task,
)
from modelium.ports import LoadRequest
from runtimes.ray.application import Application, build_application, upstream

GIB = 1024**3
CPU = Device(node="n", uuid="cpu", kind="cpu", total_bytes=8 * GIB, free_bytes=8 * GIB)
GPU = Device(
    node="n", uuid="GPU-1-2", kind="gpu", index=3, total_bytes=80 * GIB, free_bytes=80 * GIB
)
ONNX = ModelProfile(
    format=ModelFormat.ONNX,
    architecture="onnx",
    task=Task.GENERIC,
    weight_bytes=1,
    files={"model": "a/b.onnx"},
)
BERT = ModelProfile(
    format=ModelFormat.TRANSFORMERS,
    architecture="BertModel",
    task=Task.EMBEDDING,
    weight_bytes=1,
)

APPLICATION = {"import_path": "app:build", "args": {"a": 1}, "memory_bytes": None}


def composed(
    profile: ModelProfile = ONNX,
    *,
    device: Device = CPU,
    python: str | None = None,
    node_ip: str | None = None,
    reserve: int = 2 * GIB,
    remote_code: bool = False,
    version: int = 1,
    model: str = "m",
    prefix: str = "",
    **settings: Any,
) -> Application:
    request = LoadRequest(
        model=model,
        version=version,
        path="/models/m",
        profile=profile,
        settings=LoadSettings(**settings),
        devices=(device,),
        reserve={device.id: reserve},
        allow_remote_code=remote_code,
    )
    return build_application(
        request,
        python=python,
        cpus=16,
        node_ip=node_ip,
        health_timeout_s=45.0,
        prefix=prefix,
    )


@pytest.mark.parametrize("format_", ModelFormat)
@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("architecture", ["XForSequenceClassification", "XForCausalLM"])
def test_the_catalog_promises_what_the_driver_takes(
    format_: ModelFormat, task: Task, architecture: str
) -> None:
    everything = EngineCatalog(
        ray_modules=frozenset({"onnxruntime", "torch", "transformers", "diffusers"})
    )
    promised = {
        support.runtime: support.supported
        for support in assess(
            format=format_, task=task, architecture=architecture, engines=everything
        )
    }[RuntimeName.RAY_SERVE]
    try:
        changes = {"format": format_, "task": task, "architecture": architecture}
        composed(BERT.model_copy(update={**changes, "details": APPLICATION}), python="/p")
        taken = True
    except Unsupported:
        taken = False
    assert promised == taken


def variables(application: Application) -> dict[str, str]:
    found: dict[str, str] = application.options["ray_actor_options"]["runtime_env"]["env_vars"]
    return found


def test_a_custom_application_gets_its_path_and_finds_its_code() -> None:
    profile = BERT.model_copy(
        update={
            "format": ModelFormat.CUSTOM,
            "task": Task.GENERIC,
            "details": APPLICATION,
            "needs_remote_code": True,
        }
    )
    with pytest.raises(NeedsApproval, match="approve `remote-code`"):
        composed(profile)
    application = composed(profile, remote_code=True, device=GPU)
    assert application.custom and application.spec["import_path"] == "app:build"
    assert application.spec["args"] == {"a": 1, "model_path": "/models/m"}
    assert variables(application)["PYTHONPATH"] == "/models/m"
    assert variables(application)["CUDA_VISIBLE_DEVICES"] == "GPU-1-2"


def test_a_gpu_model_gets_its_share_of_the_decided_gpu() -> None:
    application = composed(device=GPU, reserve=20 * GIB)
    assert application.options["ray_actor_options"]["num_gpus"] == 0.25
    assert variables(application)["CUDA_VISIBLE_DEVICES"] == "GPU-1-2"
    assert variables(application)["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] == "1"
    assert application.spec["gpu"] is True


def test_the_share_is_never_rounded_up_nor_above_one_gpu() -> None:
    third = composed(device=GPU, reserve=80 * GIB // 3).options["ray_actor_options"]["num_gpus"]
    assert third == 0.3333
    whole = composed(device=GPU, reserve=100 * GIB).options["ray_actor_options"]["num_gpus"]
    assert whole == 1.0


def test_a_cpu_model_asks_for_no_gpu_and_is_bound_to_its_booking() -> None:
    application = composed()
    assert "num_gpus" not in application.options["ray_actor_options"]
    assert "CUDA_VISIBLE_DEVICES" not in variables(application)
    assert application.spec["memory_bytes"] == 2 * GIB


def test_replicas_share_one_booking() -> None:
    application = composed(extra={"max_replicas": 4, "target_ongoing_requests": 2})
    assert application.spec["memory_bytes"] == GIB // 2
    assert application.options["autoscaling_config"] == {
        "max_replicas": 4,
        "target_ongoing_requests": 2,
    }
    assert "num_replicas" not in application.options


def test_serve_waits_for_a_silent_replica_as_long_as_is_configured() -> None:
    assert composed().options["health_check_timeout_s"] == 45.0


def test_batching_follows_max_num_seqs() -> None:
    assert composed().spec["max_batch"] == 1
    application = composed(max_num_seqs=128)
    assert application.spec["max_batch"] == 128
    assert application.options["max_ongoing_requests"] >= 128


def test_on_an_existing_cluster_the_replica_stays_on_the_devices_node() -> None:
    actor = composed(node_ip="10.0.0.7").options["ray_actor_options"]
    assert actor["resources"] == {"node:10.0.0.7": 0.001}
    assert actor["memory"] == 2 * GIB
    assert "resources" not in composed().options["ray_actor_options"]


def test_whatever_differs_in_the_load_differs_in_the_digest() -> None:
    digests = {
        composed().digest,
        composed(version=2).digest,
        composed(max_num_seqs=2).digest,
        composed(reserve=GIB).digest,
        composed(device=GPU, python="/env/bin/python").digest,
        composed(extra={"max_ongoing_requests": 5}).digest,
        composed(device=GPU).digest,
    }
    assert len(digests) == 7
    assert composed().digest == composed().digest


def test_torch_models_without_an_environment_name_the_setting() -> None:
    with pytest.raises(LoadFailed, match=r"ray_serve\.python") as refused:
        composed(BERT)
    assert refused.value.kind == FailureKind.ENVIRONMENT
    application = composed(BERT, python="/env/bin/python")
    runtime = application.options["ray_actor_options"]["runtime_env"]
    assert runtime["py_executable"] == "/env/bin/python"
    assert application.spec["kind"] == "embedding"


def test_onnx_on_the_cpu_stays_in_modeliums_own_environment() -> None:
    for device, expected in ((CPU, None), (GPU, "/env/bin/python")):
        application = composed(device=device, python="/env/bin/python")
        runtime = application.options["ray_actor_options"]["runtime_env"]
        assert runtime.get("py_executable") == application.python == expected


def test_remote_code_needs_approval() -> None:
    profile = BERT.model_copy(update={"needs_remote_code": True})
    with pytest.raises(NeedsApproval, match="remote-code"):
        composed(profile, python="/p")
    assert composed(profile, python="/p", remote_code=True).spec["remote_code"] is True
    assert composed(BERT, python="/p").spec["remote_code"] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"task": Task.TEXT_TO_IMAGE},
        {"format": ModelFormat.GGUF},
        {"quantization": "gptq"},
    ],
)
def test_what_it_cannot_serve_is_unsupported(changes: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        composed(BERT.model_copy(update=changes), python="/p")


def test_one_device_only() -> None:
    with pytest.raises(Unsupported, match="vLLM"):
        composed(tensor_parallel_size=2)


@pytest.mark.parametrize(
    "extra",
    [{"gpu": 1}, {"max_replicas": 0}, {"num_cpus": -1}, {"threads": "4"}, {"max_replicas": True}],
)
def test_wrong_settings_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(LoadFailed) as refused:
        composed(extra=extra)
    assert refused.value.kind == FailureKind.BAD_SETTINGS


def test_another_version_runs_under_its_own_name_and_answers_by_the_models() -> None:
    made = composed(model="m@2", version=2)
    assert made.name == "m@2"
    assert made.spec["model"] == "m"
    address = upstream("m@2", kind="onnx", host="h", port=1)
    assert (address.prefix, address.served_name) == ("/m@2", "m")


def test_on_a_cluster_of_several_nodes_each_has_applications_of_its_own_name() -> None:
    made = composed(prefix="gpu1.")
    assert made.name == "gpu1.m"
    assert made.options["ray_actor_options"]["runtime_env"]["env_vars"]["MODELIUM_MODEL"] == (
        "gpu1.m"
    )
    assert made.spec["model"] == "m"
    address = upstream("m", kind="onnx", host="h", port=1, prefix="gpu1.")
    assert (address.prefix, address.served_name) == ("/gpu1.m", "m")
