"""What to train: the trainers of a job and the settings of the built-in one, under Kubeflow's names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfasync.jobs._initializers import Initializer
    from kfasync.jobs._runtimes import Runtime

__all__ = [
    "DEFAULT_PIP_INDEX_URLS",
    "TORCH_TUNE",
    "BuiltinTrainer",
    "CustomTrainer",
    "CustomTrainerContainer",
    "DataFormat",
    "DataType",
    "LoraConfig",
    "Loss",
    "TorchTuneConfig",
    "TorchTuneInstructDataset",
    "TrainJobTemplate",
    "TrainerType",
]

#: Where packages come from unless a trainer says otherwise; the first is the main index.
DEFAULT_PIP_INDEX_URLS = os.environ.get("DEFAULT_PIP_INDEX_URLS", "https://pypi.org/simple").split(",")

#: The framework name of the runtimes that `BuiltinTrainer` uses.
TORCH_TUNE = "torchtune"


@dataclass
class CustomTrainer:
    """Train with a Python function of your own, or with a script.

    Args:
        func: The function; it runs once in every rank. Closures, lambdas and ``async def`` are fine. Or the path of a
            script, which takes no ``func_args``.
        func_args: Keyword arguments for it, any picklable values.
        image: Container image, for places that run containers.
        packages_to_install: pip requirements to install before the start.
        pip_index_urls: Package indexes; the first is the main one, the others are extra.
        num_nodes: How many nodes; None takes the runtime's number.
        resources_per_node: What each node asks for, such as ``{"cpu": 2, "memory": "4Gi", "gpu": 1}``.
        env: Variables added to the job's environment; values are strings or `SecretRef`.

    Example:
        >>> CustomTrainer(func=print, func_args={"sep": ""}, num_nodes=2).num_nodes
        2
    """

    func: Callable[..., Any] | str | os.PathLike[str]
    func_args: dict[str, Any] | None = None
    image: str | None = None
    packages_to_install: list[str] | None = None
    pip_index_urls: list[str] = field(default_factory=lambda: list(DEFAULT_PIP_INDEX_URLS))
    num_nodes: int | None = None
    resources_per_node: dict[str, Any] | None = None
    env: dict[str, Any] | None = None


@dataclass
class CustomTrainerContainer:
    """Train with a container image of your own; its command and arguments are options.

    Args:
        image: The image.
        num_nodes: How many nodes; None takes the runtime's number.
        resources_per_node: What each node asks for.
        env: Variables added to the container's environment; values are strings or `SecretRef`.
    """

    image: str
    num_nodes: int | None = None
    resources_per_node: dict[str, Any] | None = None
    env: dict[str, Any] | None = None


class Loss(Enum):
    """Loss functions that torchtune can use."""

    CEWithChunkedOutputLoss = "torchtune.modules.loss.CEWithChunkedOutputLoss"


class DataType(Enum):
    """Number formats of the model and the optimizer."""

    BF16 = "bf16"
    FP32 = "fp32"


class DataFormat(Enum):
    """File formats of a dataset."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    TEXT = "text"
    XML = "xml"


@dataclass
class TorchTuneInstructDataset:
    """How torchtune reads a dataset of instructions and answers.

    Args:
        source: Format of the data files.
        split: Which split, or which part of one (``"train[:10%]"``).
        train_on_input: Whether the prompt counts for the loss too.
        new_system_prompt: A system prompt to put before each sample.
        column_map: ``"input"`` and ``"output"`` mapped to the dataset's own column names.
    """

    source: DataFormat | None = None
    split: str | None = None
    train_on_input: bool | None = None
    new_system_prompt: str | None = None
    column_map: dict[str, str] | None = None


@dataclass
class LoraConfig:
    """Low-rank adaptation (LoRA, QLoRA, DoRA) in torchtune.

    Args:
        apply_lora_to_mlp: Adapt the MLP of each layer too.
        apply_lora_to_output: Adapt the output projection too.
        lora_attn_modules: Which projections of the attention to adapt.
        lora_rank: Rank of the added matrices.
        lora_alpha: Scale of what they add.
        lora_dropout: Dropout probability on them.
        quantize_base: Keep the base model quantised (QLoRA).
        use_dora: Use DoRA.
    """

    apply_lora_to_mlp: bool | None = None
    apply_lora_to_output: bool | None = None
    lora_attn_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj", "output_proj"])
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    quantize_base: bool | None = None
    use_dora: bool | None = None


@dataclass
class TorchTuneConfig:
    """Settings of a torchtune fine-tuning.

    Args:
        dtype: Number format.
        batch_size: Samples in a step.
        epochs: Passes over the dataset.
        loss: Loss function.
        num_nodes: How many nodes.
        peft_config: Parameter-efficient fine-tuning, if wanted.
        dataset_preprocess_config: How the dataset is read.
        resources_per_node: What each node asks for.
    """

    dtype: DataType | None = None
    batch_size: int | None = None
    epochs: int | None = None
    loss: Loss | None = None
    num_nodes: int | None = None
    peft_config: LoraConfig | None = None
    dataset_preprocess_config: TorchTuneInstructDataset | None = None
    resources_per_node: dict[str, Any] | None = None


@dataclass
class BuiltinTrainer:
    """Fine-tune with the code that a runtime brings.

    Args:
        config: Its settings.
    """

    config: TorchTuneConfig


class TrainerType(Enum):
    """Which kind of trainer a runtime takes."""

    CUSTOM_TRAINER = "CustomTrainer"
    BUILTIN_TRAINER = "BuiltinTrainer"


@dataclass
class TrainJobTemplate:
    """A job to be, for many submits: ``client.train(**template)``.

    Args:
        trainer: What to train.
        runtime: A runtime or its name; None means the default one.
        initializer: Dataset and model to fetch first.
    """

    trainer: CustomTrainer | CustomTrainerContainer
    runtime: str | Runtime | None = None
    initializer: Initializer | None = None

    def keys(self) -> list[str]:
        """The arguments of ``train`` that it gives; with ``[]`` what ``**`` needs."""
        return ["trainer", "runtime", "initializer"]

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)
