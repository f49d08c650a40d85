"""Kubernetes: jobs work in the project's folder, which lies on a volume that all pods mount at the same path.

Takes Snakemake's plugin for Kubernetes; gives it a shared file system.  By itself the plugin takes none for granted and
stages declared inputs and outputs through a storage provider, whereas steps share the cache and their progress.
"""

from __future__ import annotations

import importlib
import os
import shlex
from typing import Any

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT

PASSED_ON = ("SKIN_TL_", "KERAS_", "TF_", "PYTHON", "JUPYTER_", "IPYTHON", "MPL")
"""How the names begin of environment variables that jobs get; ``PATH`` is passed on too."""


def job_prefix() -> str:
    """Return what a job's command begins with: the project's folder and the variables that run_all.sh has set."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) or name == "PATH"}
    lost = f"echo {shlex.quote(no_volume())} >&2; exit 1"
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(given.items()))
    return f"{{ cd {shlex.quote(str(ROOT))} 2>/dev/null || {{ {lost}; }}; }} && export {words}"


def no_volume() -> str:
    """Return what a job says that does not find the project."""
    return (
        f"error: {ROOT} is not there in this pod. Mount the volume that holds the project at the same path in all "
        "pods: `kubernetes-persistent-volumes` in profiles/kubernetes/config.yaml."
    )


def share_project() -> None:
    """Let jobs of Snakemake's Kubernetes plugin work in the project's folder.

    Raises
    ------
    SkinTLError
        If the plugin finds no cluster.
    """
    plugin: Any = importlib.import_module("snakemake_executor_plugin_kubernetes")
    config: Any = importlib.import_module("kubernetes.config")
    try:
        config.load_config()
    except config.ConfigException as error:
        raise SkinTLError(
            f"No Kubernetes cluster is known here ({str(error).rstrip('.')}). Start this in a pod of the cluster, or "
            "where `kubectl` works; docs/kubernetes.md says how."
        ) from None
    shared = plugin.common_settings
    shared.implies_no_shared_fs = shared.job_deploy_sources = shared.auto_deploy_default_storage_provider = False
    plugin.Executor.get_job_exec_prefix = lambda self, job: job_prefix()
