"""The examples for Kubernetes and Slurm are well formed, and start what Modelium is.

Their hosts are not here: the manifest is checked against Kubernetes' own schema, and the batch script
is run with stand-ins for Slurm's commands and for `modelium`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelium.config import Config
from modelium.config.loading import load

ROOT = Path(__file__).parents[2]
DOCUMENTS = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
SCHEMA = json.loads((ROOT / "tests" / "data" / "kubernetes.json").read_text())
SCRIPT = ROOT / "deploy" / "modelium.sbatch"

DEADLINE_S = 60.0


def named(kind: str, name: str = "modelium") -> dict[str, Any]:
    (found,) = [d for d in DOCUMENTS if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return dict(found)


def pod() -> dict[str, Any]:
    return dict(named("StatefulSet")["spec"]["template"]["spec"])


# --- Kubernetes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda d: f"{d['kind']} {d['metadata']['name']}"
)
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    wanted = {"$ref": f"#/definitions/{SCHEMA['kinds'][document['kind']]}"}
    jsonschema.validate(document, {**wanted, "definitions": SCHEMA["definitions"]})


def test_a_misspelt_field_is_noticed() -> None:
    wrong = named("PodDisruptionBudget")
    wrong["spec"] = {**wrong["spec"], "maxUnavailible": 1}
    with pytest.raises(jsonschema.ValidationError):
        test_kubernetes_knows_every_field(wrong)


def test_the_pods_reach_each_other_by_name_and_keep_their_identity() -> None:
    stateful, (container,) = named("StatefulSet")["spec"], pod()["containers"]
    nodes = named("Service", stateful["serviceName"])["spec"]
    assert nodes["clusterIP"] == "None"
    assert nodes["publishNotReadyAddresses"]
    labels = stateful["template"]["metadata"]["labels"]
    selectors = [nodes["selector"], named("Service")["spec"]["selector"]]
    selectors += [
        d["spec"]["selector"]["matchLabels"] for d in DOCUMENTS if "matchLabels" in str(d)
    ]
    assert all(selector == labels for selector in selectors)
    (port,) = [p["containerPort"] for p in container["ports"] if p["name"] == "gateway"]
    given = {one["name"]: one for one in container["env"]}
    advertised = given["MODELIUM_GATEWAY__ADVERTISE"]["value"]
    assert advertised == f"http://$(POD_NAME).{stateful['serviceName']}:{port}"
    assert list(given).index("POD_NAME") < list(given).index("MODELIUM_ORCHESTRATION__NODE")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (claim,) = stateful["volumeClaimTemplates"]
    state = configuration().orchestration.state
    assert state.is_relative_to(mounts[claim["metadata"]["name"]]), "its key outlives the pod"
    assert {v["name"] for v in pod()["volumes"]} | {claim["metadata"]["name"]} == set(mounts)


def configuration(folder: Path | None = None) -> Config:
    """Return what the first pod's service is configured with."""
    (container,) = pod()["containers"]
    secrets = {"store-url": "postgresql://m:p@db/m", "gateway-token": "t" * 32, "token": "mdj_x"}
    environ = {}
    for one in container["env"]:
        source = one.get("valueFrom", {})
        key = source.get("secretKeyRef", {}).get("key")
        value = secrets[key] if key else one.get("value", "modelium-0")
        environ[one["name"]] = value.replace("$(POD_NAME)", "modelium-0")
    file = (folder or Path(os.environ.get("TMPDIR", "/tmp"))) / f"kubernetes-{os.getpid()}.yaml"
    file.write_text(named("ConfigMap")["data"]["modelium.yaml"])
    try:
        return load(file, environ)
    finally:
        file.unlink()


def test_modelium_accepts_what_the_pods_are_configured_with(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert config.orchestration.node == "modelium-0"
    assert str(config.gateway.advertise) == "http://modelium-0.modelium-nodes:8000"
    assert config.orchestration.join_token is not None


def test_the_pods_have_no_rights_and_stop_when_the_gateway_does() -> None:
    (container,) = pod()["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod()["securityContext"]["runAsNonRoot"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert all(probe == {"path": "/healthz", "port": "gateway"} for probe in probes)


# --- Slurm --------------------------------------------------------------------------------------

STAND_INS = {
    "scontrol": "printf 'n%s\\n' 1 2 3",
    # Runs the command as srun does, and notes where.
    "srun": """
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=* ]] && export HOST=${1#--nodelist=}
    shift
done
exec "$@" """,
    "curl": '[[ -e $MODELIUM_BASE/up.$(cut -d/ -f3 <<<"${@: -1}" | cut -d: -f1) ]]',
    "modelium": """
say() { echo "$*" >>"$MODELIUM_BASE/calls"; }
case $1 in
nodes)
    say "token by $MODELIUM_URL"
    echo mdj_new
    ;;
up)
    say "up $MODELIUM_ORCHESTRATION__NODE on $HOST, $MODELIUM_GATEWAY__ADVERTISE, ${MODELIUM_JOIN_TOKEN-no token}"
    mkdir -p "$MODELIUM_ORCHESTRATION__STATE_DIRECTORY"
    touch "$MODELIUM_BASE/up.$HOST"
    while [[ -e $MODELIUM_BASE/up.$HOST ]]; do sleep 0.05; done
    ;;
down)
    say "down $MODELIUM_ORCHESTRATION__NODE on $HOST"
    rm "$MODELIUM_BASE/up.$HOST"
    ;;
esac""",
}


def job(tmp_path: Path) -> list[str]:
    """Run the script until all its services are up, end it as Slurm does; return what it called."""
    base, programs = tmp_path / "base", tmp_path / "bin"
    for folder in (base, programs):
        folder.mkdir(exist_ok=True)
    (base / "token").write_text("secret")
    (base / "calls").write_text("")
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MODELIUM_BASE": str(base),
        "SLURM_JOB_NODELIST": "n[1-3]",
    }
    process = subprocess.Popen(["bash", SCRIPT], env=environ, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + DEADLINE_S
    while not (base / "state" / "2" / "joined").exists() or len(list(base.glob("up.*"))) < 3:
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    return (base / "calls").read_text().splitlines()


@pytest.mark.slow
def test_each_node_of_a_job_joins_once_and_is_shut_down_before_the_time_limit(
    tmp_path: Path,
) -> None:
    first = job(tmp_path)
    assert first[:5] == [
        "up slurm-0 on n1, http://n1:8000, no token",
        "token by http://n1:8000",
        "up slurm-1 on n2, http://n2:8000, mdj_new",
        "token by http://n1:8000",
        "up slurm-2 on n3, http://n3:8000, mdj_new",
    ]
    assert sorted(first[5:]) == [f"down slurm-{i} on n{i + 1}" for i in range(3)]

    again = job(tmp_path)
    assert not [line for line in again if "token by" in line], "they have joined"


def test_slurm_is_told_to_end_the_job_in_time() -> None:
    text = SCRIPT.read_text()
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert len(lines) == len(given) + 1, "and --exclusive"
    kind, _, seconds = given["signal"].partition("@")
    assert kind == "B:TERM", "the batch shell gets it, not the steps"
    assert int(seconds) >= 120
    assert given["ntasks-per-node"] == "1"
    before = text[: text.index("#SBATCH")].splitlines()
    assert all(line.startswith("#") for line in before), "Slurm reads none after a command"
