"""Constants under Kubeflow's import path. Its shell templates are left out: no code passes through a shell here."""

import os

from kfasync.jobs._initializers import DATASET_PATH, MODEL_PATH, WORKSPACE_PATH
from kfasync.jobs._initializers import DEFAULT_IGNORE_PATTERNS as INITIALIZER_DEFAULT_IGNORE_PATTERNS
from kfasync.jobs._runtimes import DATASET_INITIALIZER, LAUNCHER, MODEL_INITIALIZER, NODE, default_runtime
from kfasync.jobs._trainers import DEFAULT_PIP_INDEX_URLS

# The TrainJob API.
GROUP = "trainer.kubeflow.org"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
TRAINJOB_KIND = "TrainJob"
TRAINJOB_PLURAL = "trainjobs"
TRAINING_RUNTIME_PLURAL = "trainingruntimes"
CLUSTER_TRAINING_RUNTIME_PLURAL = "clustertrainingruntimes"

# Statuses of a job, and the phases of pods that are statuses of its steps.
TRAINJOB_CREATED = "Created"
TRAINJOB_RUNNING = "Running"
TRAINJOB_COMPLETE = "Complete"
TRAINJOB_FAILED = "Failed"
POD_PENDING = "Pending"
POD_SUCCEEDED = "Succeeded"

# Labels.
TRAINJOB_ANCESTOR_LABEL = f"{GROUP}/trainjob-ancestor-step"
RUNTIME_FRAMEWORK_LABEL = f"{GROUP}/framework"
JOBSET_NAME_LABEL = "jobset.sigs.k8s.io/jobset-name"
JOBSET_RJOB_NAME_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
JOB_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
POD_LABEL_SELECTOR = (
    f"{JOBSET_NAME_LABEL}={{trainjob_name}},"
    f"{JOBSET_RJOB_NAME_LABEL} in ({DATASET_INITIALIZER}, {MODEL_INITIALIZER}, {LAUNCHER}, {NODE})"
)

# Resources.
CPU_LABEL = "cpu"
GPU_LABEL = "nvidia.com/gpu"
GPU_MIG_PREFIX = "nvidia.com/mig-"
TPU_LABEL = "google.com/tpu"
NPU_LABEL = "huawei.com/Ascend910"

# Environment of initializers and ranks, and defaults.
INITIALIZER_ENV_ACCESS_TOKEN = "ACCESS_TOKEN"
TORCH_ENV_NUM_PROC_PER_NODE = "PET_NPROC_PER_NODE"
TORCH_TUNE_COMMAND = ("tune", "run")
TORCH_TUNE_INSTRUCT_DATASET = "torchtune.datasets.instruct_dataset"
DEFAULT_MPI_USER_HOME = os.environ.get("DEFAULT_MPI_USER_HOME", "/home/mpiuser")
DEFAULT_TRAINING_RUNTIME = default_runtime()
DEFAULT_FRAMEWORK_IMAGES = {"torch": "pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime"}
JOB_NAME_UUID_LENGTH = 11

__all__ = [
    "API_VERSION",
    "CLUSTER_TRAINING_RUNTIME_PLURAL",
    "CPU_LABEL",
    "DATASET_INITIALIZER",
    "DATASET_PATH",
    "DEFAULT_FRAMEWORK_IMAGES",
    "DEFAULT_MPI_USER_HOME",
    "DEFAULT_PIP_INDEX_URLS",
    "DEFAULT_TRAINING_RUNTIME",
    "GPU_LABEL",
    "GPU_MIG_PREFIX",
    "GROUP",
    "INITIALIZER_DEFAULT_IGNORE_PATTERNS",
    "INITIALIZER_ENV_ACCESS_TOKEN",
    "JOBSET_NAME_LABEL",
    "JOBSET_RJOB_NAME_LABEL",
    "JOB_INDEX_LABEL",
    "JOB_NAME_UUID_LENGTH",
    "LAUNCHER",
    "MODEL_INITIALIZER",
    "MODEL_PATH",
    "NODE",
    "NPU_LABEL",
    "POD_LABEL_SELECTOR",
    "POD_PENDING",
    "POD_SUCCEEDED",
    "RUNTIME_FRAMEWORK_LABEL",
    "TORCH_ENV_NUM_PROC_PER_NODE",
    "TORCH_TUNE_COMMAND",
    "TORCH_TUNE_INSTRUCT_DATASET",
    "TPU_LABEL",
    "TRAINING_RUNTIME_PLURAL",
    "TRAINJOB_ANCESTOR_LABEL",
    "TRAINJOB_COMPLETE",
    "TRAINJOB_CREATED",
    "TRAINJOB_FAILED",
    "TRAINJOB_KIND",
    "TRAINJOB_PLURAL",
    "TRAINJOB_RUNNING",
    "VERSION",
    "WORKSPACE_PATH",
]
