"""A study by Snakemake's plugin for Kubernetes, against a stand-in for a cluster; and the container file."""

import json
import os
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from copies import copy_project, start

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT
from skin_tl.workflow import kubernetes
from skin_tl.workflow.console import Step
from skin_tl.workflow.start import _parse_options

CONTAINERFILE = (ROOT / "Containerfile").read_text()
PROFILE = yaml.safe_load((ROOT / "profiles" / "kubernetes" / "config.yaml").read_text())


class Cluster(ThreadingHTTPServer):
    """Takes jobs as Kubernetes does, and runs each one's command at once, without any variable of this process."""

    def __init__(self, home):
        super().__init__(("127.0.0.1", 0), Answer)
        self.home, self.jobs, self.failed = home, {}, {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def run(self, job):
        """Run the container's command to its end."""
        (container,) = job["spec"]["template"]["spec"]["containers"]
        work = self.home / job["metadata"]["name"]
        work.mkdir()
        done = subprocess.run(
            [*container["command"], *container["args"]],
            cwd=work,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.home)},
            capture_output=True,
            text=True,
        )
        self.jobs[job["metadata"]["name"]] = job
        self.failed[job["metadata"]["name"]] = done.returncode != 0
        with (self.home / "said").open("a") as file:
            file.write(done.stdout + done.stderr)


class Answer(BaseHTTPRequestHandler):
    """The few addresses that the plugin asks."""

    def log_message(self, *_):
        pass

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/jobs"):
            self.server.run(content)
        self.reply(content)

    def do_GET(self):
        if "/jobs/" in self.path:
            failed = self.server.failed[self.path.split("/jobs/")[1].split("/")[0]]
            self.reply({"status": {"failed": 1} if failed else {"succeeded": 1}})
        else:
            self.reply({"kind": "PodList", "items": []})

    def do_DELETE(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply({})


@pytest.fixture
def cluster(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    server = Cluster(home)
    address = f"http://127.0.0.1:{server.server_port}"
    (home / "config").write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "x", "cluster": {"server": address}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "users": [{"name": "x", "user": {}}],
                "current-context": "x",
            }
        )
    )
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow  # which installs locks/kubernetes.lock, as the profile asks for it
def test_jobs_for_kubernetes_run_in_an_empty_environment(tmp_path, small_study, cluster):
    project = copy_project(tmp_path / "project", small_study)
    options = ("--profile", "profiles/kubernetes", "--seconds-between-status-checks", "1", "--until", "dataset")
    done = start(project, *options, KUBECONFIG=str(cluster.home / "config"))
    assert done.returncode == 0, done.stderr + (cluster.home / "said").read_text()
    assert (project / "runs" / "small" / "dataset" / "splits.csv").is_file()
    for job in cluster.jobs.values():
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == PROFILE["container-image"]
        assert {"name": "skin-tl", "mountPath": "/project"} in container["volumeMounts"]
        assert {"name": "skin-tl", "persistentVolumeClaim": {"claimName": "skin-tl"}} in pod["volumes"]
        needs = container["resources"]
        assert needs["limits"]["nvidia.com/gpu"] == needs["requests"]["nvidia.com/gpu"] == "0"
        assert needs["limits"]["memory"] == needs["requests"]["memory"] == "4000M"


def test_a_job_without_the_volume_names_the_folder_and_the_setting(monkeypatch, tmp_path):
    monkeypatch.setattr(kubernetes, "ROOT", tmp_path / "not here")
    done = subprocess.run(["/bin/sh", "-c", f"{kubernetes.job_prefix()} && true"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/not here is not there") and "kubernetes-persistent-volumes" in line


@pytest.mark.parametrize("note", ["", "Job snakejob-1 failed."])
def test_a_job_that_dies_without_a_log_says_so_in_one_line(tmp_path, note):
    step = Step(1, "images", "checking the images", "", tmp_path / "logs" / "images.log", 0.0)
    line, place = step.failure(note)
    assert line.startswith("error: checking the images") and "It wrote no log" in line and note in line
    assert place == f"  log: {tmp_path}/logs/images.log"


def test_an_executor_whose_plugin_is_not_installed_is_named():
    with pytest.raises(SkinTLError, match=r"'lsf' is not installed.*snakemake-executor-plugin-lsf"):
        _parse_options(["--executor", "lsf"])


def test_a_job_begins_in_the_project_with_what_run_all_has_set(monkeypatch, tmp_path):
    monkeypatch.setattr(kubernetes, "ROOT", tmp_path)
    monkeypatch.setenv("SKIN_TL_HAM10000", "/data/it's here")
    monkeypatch.setenv("OTHER", "x")
    command = f'{kubernetes.job_prefix()} && echo "$PWD|$SKIN_TL_HAM10000|$OTHER"'
    done = subprocess.run(["/bin/sh", "-c", command], env={}, capture_output=True, text=True)
    assert done.stdout == f"{os.path.realpath(tmp_path)}|/data/it's here|\n"


def test_the_profile_has_an_image_and_a_volume_and_decides_by_content():
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    assert PROFILE["max-checksum-file-size"] == default["max-checksum-file-size"]
    assert [volume.count(":") for volume in PROFILE["kubernetes-persistent-volumes"]] == [1]


def test_what_the_container_file_copies_and_installs_is_there():
    copied = re.findall(r"^COPY (\S+) ", CONTAINERFILE, re.MULTILINE)
    assert copied and all((ROOT / path).exists() for path in copied)
    (default,) = re.findall(r'^ARG LOCKS="(.*)"$', CONTAINERFILE, re.MULTILINE)
    asked = re.findall(r'LOCKS="([^"]*)"', CONTAINERFILE)
    assert default in asked and "base cuda" in asked
    for name in {*" ".join(asked).split(), "kubernetes"}:
        assert (ROOT / "locks" / f"{name}.lock").is_file()


def test_the_container_file_stamps_locks_and_installs_system_packages_as_others_do(tmp_path):
    script = (ROOT / "run_all.sh").read_text()
    rule = re.search(r"awk '(.*)' \"\$file\"", script)[1]
    assert rule in CONTAINERFILE
    wanted = set(re.search(r'^wanted="(.*)"$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)[1].split())
    printed = {name for name in wanted if name.startswith(("libpango", "libharfbuzz", "fonts"))}
    assert printed <= set(CONTAINERFILE.split())


def test_each_run_of_the_container_file_is_a_script_that_the_shell_can_parse():
    joined = CONTAINERFILE.replace("\\\n", "")
    for command in re.findall(r"^RUN (.*)$", joined, re.MULTILINE):
        subprocess.run(["/bin/sh", "-n", "-c", command], check=True)
    words = {line.split()[0] for line in joined.splitlines() if line and not line.startswith("#")}
    assert words <= {"FROM", "ARG", "RUN", "COPY", "ENV", "WORKDIR", "CMD"}
