"""The RayService fits KubeRay's schema, matches serve_config.yaml, and exposes no port of Ray."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema

from benchmarks.server import ROOT
from deployments.app import Args
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.ray_environment import RAY

SERVICE, CLAIM, POLICY = yaml.safe_load_all((ROOT / "ops/kuberay/rayservice.yaml").read_text())
SCHEMA = yaml.safe_load(Path(__file__).with_name("rayservice_schema.yaml").read_text())
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
TEMPLATES = [CLUSTER["headGroupSpec"]["template"], *(group["template"] for group in CLUSTER["workerGroupSpecs"])]
GPU_GIB = 22.0  # the smallest GPU of 24 GB, as CUDA reports it
# These settings of the table differ here: one Ray of many machines, and a /dev/shm of its own.
OTHERWISE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"}


def strict(schema: Any) -> Any:
    """Convert a structural schema to a JSON schema in which unlisted fields are errors instead of pruned."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(each) for name, each in schema.items()}
    if isinstance(closed.get("properties"), dict) and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed


def faults(service: Any, schema: Any = SCHEMA) -> list[str]:
    errors = Draft202012Validator(strict(schema)).iter_errors(service)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def serve_config() -> dict[str, Any]:
    return yaml.safe_load(SERVICE["spec"]["serveConfigV2"])


def test_it_fits_the_schema() -> None:
    Draft202012Validator.check_schema(strict(SCHEMA))
    assert faults(SERVICE) == []


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda spec: spec.update(serveConfig="a"), "spec: .*serveConfig"),
        (lambda spec: spec.update(serveConfigV2={}), r"spec\.serveConfigV2: .* not of type 'string'"),
        (lambda spec: spec.pop("rayClusterConfig"), "spec: 'rayClusterConfig' is a required"),
        (lambda spec: spec["rayClusterConfig"]["authOptions"].update(mode="tokens"), "authOptions.mode: 'tokens'"),
        (
            lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"][0].pop("minReplicas"),
            "'minReplicas' is a required",
        ),
        (
            lambda spec: spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            "num-cpus: 0 is not of type 'string'",
        ),
        (
            lambda spec: spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(
                resource=1
            ),
            r"containers\.0: .*resource",
        ),
    ],
)
def test_the_schema_detects_errors(break_it: Callable[[dict[str, Any]], object], message: str) -> None:
    broken = copy.deepcopy(SERVICE)
    break_it(broken["spec"])
    (found,) = faults(broken)
    assert pytest.raises(ValueError, match=message).matches(ValueError(found)), found


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason="KUBERAY_CRD names no file with the CRD of a cluster")
def test_it_fits_the_definition_of_a_cluster() -> None:
    """Run `kubectl get crd rayservices.ray.io -o yaml > FILE` and set KUBERAY_CRD=FILE to run this test."""
    definition = yaml.safe_load(Path(os.environ["KUBERAY_CRD"]).read_text())
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    assert faults(SERVICE, schema) == []


def test_it_matches_serve_config_except_for_host_and_profile() -> None:
    ours, theirs = yaml.safe_load((ROOT / "serve_config.yaml").read_text()), serve_config()
    assert theirs["http_options"].pop("host") == "0.0.0.0" and ours["http_options"].pop("host") == "127.0.0.1"
    args = [config["applications"][0].pop("args") for config in (ours, theirs)]
    assert set(args[0]) <= set(args[1]) <= set(Args.model_fields)
    assert theirs == ours
    ServeDeploySchema.model_validate(serve_config())


def test_its_profile_fits_the_gpus_of_its_workers_and_survives_the_loss_of_one() -> None:
    args = Args.model_validate(serve_config()["applications"][0]["args"])
    profile = load_profile(args.profile, args.overrides)
    (group,) = CLUSTER["workerGroupSpecs"]
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    plan_placement(profile, [GPU_GIB] * gpus * group["replicas"])
    assert all(profile.engines[name].replicas >= 2 for name in profile.users())
    assert profile.ingress.replicas == group["replicas"] and profile.ingress.max_per_node == 1
    assert profile.ingress.keys_file == "/etc/roadwork/keys.yaml" and profile.journal.url.startswith("postgresql://")
    (container,) = group["template"]["spec"]["containers"]
    cpus = sum(profile.engines[name].num_cpus * profile.engines[name].replicas for name in profile.users())
    cpus += profile.ingress.num_cpus * profile.ingress.replicas + profile.journal.num_cpus
    assert cpus <= int(container["resources"]["requests"]["cpu"]) * (group["replicas"] - 1), "with one worker gone"


@pytest.mark.parametrize("template", TEMPLATES, ids=["head", "worker"])
def test_pods_have_minimal_privileges(template: dict[str, Any]) -> None:
    pod = template["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert "--uid 10001" in (ROOT / "ops/Dockerfile").read_text()
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    (claim,) = (each["persistentVolumeClaim"] for each in pod["volumes"] if "persistentVolumeClaim" in each)
    assert claim["claimName"] == CLAIM["metadata"]["name"] and CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("template", TEMPLATES, ids=["head", "worker"])
def test_every_pod_has_rays_settings_and_no_plain_secret(template: dict[str, Any]) -> None:
    env = {each["name"]: each for each in template["spec"]["containers"][0]["env"]}
    assert {name: env[name]["value"] for name in RAY.keys() - OTHERWISE} == {
        name: value for name, value in RAY.items() if name not in OTHERWISE
    }
    secret = [each for name, each in env.items() if name.endswith(("PASSWORD", "TOKEN"))]
    assert len(secret) == 2 and all("value" not in each for each in secret)
    assert CLUSTER["authOptions"]["mode"] == "token" and CLUSTER["rayVersion"] == ray.__version__


def test_only_the_server_and_metrics_ports_are_open_outside_of_ray() -> None:
    spec = POLICY["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert all(template["metadata"]["labels"] == spec["podSelector"]["matchLabels"] for template in TEMPLATES)
    among, operator, *others = spec["ingress"]
    assert among == {"from": [{"podSelector": spec["podSelector"]}]}
    assert {port["port"] for port in operator["ports"]} == {8265, 8000}
    assert {port["port"] for rule in others for port in rule["ports"]} == {8000, 8080}
    assert all(rule["from"] and all(rule["from"]) for rule in spec["ingress"])
