"""What a job fetches before it trains: datasets and models, under Kubeflow's names."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

from kfasync.errors import InvalidSpecError

__all__ = [
    "DATASET_PATH",
    "DEFAULT_IGNORE_PATTERNS",
    "MODEL_PATH",
    "WORKSPACE_PATH",
    "BaseInitializer",
    "DataCacheInitializer",
    "HuggingFaceDatasetInitializer",
    "HuggingFaceModelInitializer",
    "Initializer",
    "S3DatasetInitializer",
    "S3ModelInitializer",
]

WORKSPACE_PATH = "/workspace"
#: Where the training code finds the dataset.
DATASET_PATH = f"{WORKSPACE_PATH}/dataset"
#: Where the training code finds the model.
MODEL_PATH = f"{WORKSPACE_PATH}/model"
#: Files of a model repository that are other formats of the same weights.
DEFAULT_IGNORE_PATTERNS = ["*.msgpack", "*.h5", "*.bin", "*.pt", "*.pth"]


def _model_patterns() -> list[str]:
    return list(DEFAULT_IGNORE_PATTERNS)


def _check_s3(uri: str) -> None:
    if not uri.startswith("s3://"):
        raise InvalidSpecError(f"storage_uri must be of the form s3://bucket/path, not {uri!r}")


@dataclass
class BaseInitializer(abc.ABC):
    """What all initializers have.

    Args:
        storage_uri: Where the data is.
    """

    storage_uri: str


@dataclass
class HuggingFaceDatasetInitializer(BaseInitializer):
    """A dataset from the Hugging Face Hub.

    Args:
        storage_uri: ``hf://owner/dataset``, with a path behind it if only a part is wanted.
        ignore_patterns: Files not to fetch.
        access_token: Token for private datasets; it stays out of reprs.
    """

    ignore_patterns: list[str] | None = None
    access_token: str | None = field(default=None, repr=False)


@dataclass
class S3DatasetInitializer(BaseInitializer):
    """A dataset from S3 or what speaks its protocol.

    Args:
        storage_uri: ``s3://bucket/path``.
        ignore_patterns: Files not to fetch.
        endpoint: URL of the service, where it is not AWS.
        access_key_id: Access key.
        secret_access_key: Its secret; it stays out of reprs.
        region: Region.
        role_arn: Role to assume.
    """

    ignore_patterns: list[str] | None = None
    endpoint: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    region: str | None = None
    role_arn: str | None = None

    def __post_init__(self) -> None:
        _check_s3(self.storage_uri)


@dataclass
class DataCacheInitializer(BaseInitializer):
    """A dataset served from a distributed in-memory cache.

    Args:
        storage_uri: ``cache://schema/table``.
        metadata_loc: Metadata file of the Iceberg table.
        num_data_nodes: Nodes of the cache, at least 2.
        head_cpu: CPU of the head node.
        head_mem: Memory of the head node.
        worker_cpu: CPU of each worker.
        worker_mem: Memory of each worker.
        iam_role: Role that may read the metadata file.
    """

    metadata_loc: str
    num_data_nodes: int
    head_cpu: str | None = None
    head_mem: str | None = None
    worker_cpu: str | None = None
    worker_mem: str | None = None
    iam_role: str | None = None

    def __post_init__(self) -> None:
        if self.num_data_nodes <= 1:
            raise InvalidSpecError(f"num_data_nodes must be at least 2, not {self.num_data_nodes}")
        scheme, _, path = self.storage_uri.partition("://")
        if scheme != "cache" or path.count("/") != 1:
            raise InvalidSpecError(f"storage_uri must be of the form cache://schema/table, not {self.storage_uri!r}")


@dataclass
class HuggingFaceModelInitializer(BaseInitializer):
    """A model from the Hugging Face Hub.

    Args:
        storage_uri: ``hf://owner/model``.
        ignore_patterns: Files not to fetch; by default the weights in formats other than safetensors.
        access_token: Token for private or gated models; it stays out of reprs.
    """

    ignore_patterns: list[str] | None = field(default_factory=_model_patterns)
    access_token: str | None = field(default=None, repr=False)


@dataclass
class S3ModelInitializer(BaseInitializer):
    """A model from S3 or what speaks its protocol.

    Args:
        storage_uri: ``s3://bucket/path``.
        ignore_patterns: Files not to fetch; by default the weights in formats other than safetensors.
        endpoint: URL of the service, where it is not AWS.
        access_key_id: Access key.
        secret_access_key: Its secret; it stays out of reprs.
        region: Region.
        role_arn: Role to assume.
    """

    ignore_patterns: list[str] | None = field(default_factory=_model_patterns)
    endpoint: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    region: str | None = None
    role_arn: str | None = None

    def __post_init__(self) -> None:
        _check_s3(self.storage_uri)


@dataclass
class Initializer:
    """What to fetch before the training starts.

    Args:
        dataset: The dataset, if any.
        model: The model, if any.
    """

    dataset: HuggingFaceDatasetInitializer | S3DatasetInitializer | DataCacheInitializer | None = None
    model: HuggingFaceModelInitializer | S3ModelInitializer | None = None
