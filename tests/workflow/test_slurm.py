"""A study by Slurm: a controller and two node daemons on this host, see slurm.sh."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from copies import copy_project, start

from skin_tl.files import ROOT

SLURM = ROOT / "tests" / "slurm.sh"
MISSING = [
    name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path="/usr/sbin:/usr/bin")
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason=f"needs slurm-wlm, munge and root; lacks {MISSING}"),
]

OPTIONS = ("--profile", "profiles/slurm", "--max-threads", "2", "--slurm-status-command", "squeue")


@pytest.fixture(scope="module")
def cluster():
    folder = Path("/tmp") / f"skin-tl-slurm-{os.getpid()}"
    done = subprocess.run([SLURM, "start", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Slurm does not start on this host: {done.stderr}")
    yield folder
    subprocess.run([SLURM, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def project(tmp_path, small_study):
    return copy_project(tmp_path / "project", small_study.model_copy(update={"max_epochs": 5}))


def predictions(project):
    return (project / "runs/small/feature_extraction/MobileNetV2/predictions.csv").read_bytes()


def test_a_study_by_slurm_gives_the_predictions_of_a_local_one_though_a_node_crashes(project, cluster, tmp_path):
    local = shutil.copytree(project, tmp_path / "local", symlinks=True)
    assert start(local).returncode == 0
    command = ["./run_all.sh", "small.yaml", *OPTIONS]
    with open(tmp_path / "shown", "w") as shown:
        process = subprocess.Popen(command, cwd=project, stderr=shown, env=os.environ | {"SKIN_TL_CUDA": "0"})
        while "features" not in subprocess.check_output(["squeue", "-h", "-t", "R", "-o", "%k"], text=True):
            assert process.poll() is None, (tmp_path / "shown").read_text()
            time.sleep(0.2)
        node = subprocess.check_output(["squeue", "-h", "-t", "R", "-o", "%N"], text=True).split()[0]
        subprocess.run([SLURM, "kill", cluster, node], check=True)
        assert process.wait(timeout=1500) == 0, (tmp_path / "shown").read_text()
    lines = (tmp_path / "shown").read_text().splitlines()
    assert any(line.startswith("Done: ") for line in lines)
    assert any("random weights" in line for line in lines)  # of a step, from its node
    assert predictions(project) == predictions(local)
    assert (project / "report/small/metrics.csv").read_bytes() == (local / "report/small/metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set-resources", "images:mem_mb=1"], "images:mem_mb="),
        (["--default-resources", "slurm_partition=none_such"], "partition"),
    ],
)
def test_a_job_that_cannot_be_run_names_its_setting(project, cluster, options, told):
    done = start(project, *OPTIONS, *options, "--retries", "0")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors and all(told in line for line in errors), done.stderr


def test_a_node_without_the_projects_folder_is_suspected(project, cluster):
    subprocess.run([SLURM, "hide", cluster, "two", project], check=True)
    done = start(project, *OPTIONS, "--default-resources", "slurm_extra='--nodelist=two'", "--retries", "0")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors and all("its node may lack this folder" in line for line in errors), done.stderr
