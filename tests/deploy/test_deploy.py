"""What schedulers are given: files that parse, flags that torchrun knows, and the status that starts a run again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import parse_args

from tests.conftest import ROOT
from umt_pipeline.training.stopping import INTERRUPTED_STATUS

SBATCH, KUBERNETES = ROOT / "deploy" / "slurm.sbatch", ROOT / "deploy" / "kubernetes.yaml"


def submit(folder: Path, status: int) -> tuple[int, list[str]]:
    """Run the batch script with commands of SLURM that write down how they are called; return status and calls."""
    calls = folder / "calls"
    programs = {
        "scontrol": 'echo "scontrol $*" >> "$CALLS"; if [ "$1" = show ]; then echo node7; echo node8; fi',
        "srun": f'echo "srun $*" >> "$CALLS"; exit {status}',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "31", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_GPUS_ON_NODE": "8"}
    environment = {**os.environ, **slurm, "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}
    ran = subprocess.run(["bash", str(SBATCH), "/shared/run/spec.json"], env=environment, check=False, capture_output=True)
    return ran.returncode, calls.read_text(encoding="utf-8").splitlines()


def torchrun_arguments(arguments: list[str]) -> Any:
    args = parse_args(arguments)
    assert (args.rdzv_backend, args.module, args.training_script) == ("c10d", True, "umt_pipeline.training.launch")
    assert "join_timeout=" in args.rdzv_conf
    return args


def test_the_batch_script_parses() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    text = SBATCH.read_text(encoding="utf-8")
    for option in ("--requeue", "--signal=USR1@300", "--ntasks-per-node=1", "--open-mode=append"):
        assert f"#SBATCH {option}\n" in text
    ran = subprocess.run(["bash", str(SBATCH)], check=False, capture_output=True, text=True, env={"SLURM_JOB_NODELIST": "a"})
    assert ran.returncode != 0
    assert "usage: sbatch" in ran.stderr


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, False), (INTERRUPTED_STATUS, True)])
def test_a_job_goes_back_into_the_queue_when_its_ranks_were_asked_to_stop(tmp_path: Path, status: int, again: bool) -> None:
    ended, calls = submit(tmp_path, status)
    assert ended == status
    assert ("scontrol requeue 31" in calls) == again
    (srun,) = [call for call in calls if call.startswith("srun")]
    module, _, rest = srun.partition(" -m umt_pipeline.training.torchrun ")
    assert module.endswith("python")
    args = torchrun_arguments(rest.split())
    assert (args.nnodes, args.nproc_per_node, args.rdzv_endpoint, args.rdzv_id) == ("2", "8", "node7:29400", "31-0")
    assert args.training_script_args == ["/shared/run/spec.json"]


def test_the_job_of_kubernetes_agrees_with_itself() -> None:
    service, job = list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0] == {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [INTERRUPTED_STATUS]}}
    assert (spec["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never"), "else neither names nor the policy work"
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "umt_pipeline.training.torchrun"]
    args = torchrun_arguments(container["args"])
    assert int(args.nnodes) == spec["completions"] == spec["parallelism"]
    assert int(args.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert args.rdzv_endpoint.split(":")[0] == f"{name}-0.{service['metadata']['name']}"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] >= 120
