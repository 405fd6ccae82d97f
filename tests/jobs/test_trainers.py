"""Trainers and templates."""

from __future__ import annotations

import pytest

from kfasync.jobs import CustomTrainer, LoraConfig, TrainJobTemplate


def _train() -> None:
    """Stands for a training function."""


def test_a_template_unpacks_into_the_arguments_of_train() -> None:
    trainer = CustomTrainer(func=_train, num_nodes=2)
    template = TrainJobTemplate(trainer=trainer, runtime="torch-distributed")
    assert dict(**template) == {"trainer": trainer, "runtime": "torch-distributed", "initializer": None}


def test_a_template_gives_nothing_but_its_arguments() -> None:
    with pytest.raises(KeyError):
        TrainJobTemplate(trainer=CustomTrainer(func=_train))["keys"]


def test_defaults_are_not_shared_between_trainers() -> None:
    first, second = CustomTrainer(func=_train), CustomTrainer(func=_train)
    first.pip_index_urls.append("https://example.org/simple")
    LoraConfig().lora_attn_modules.append("k_proj")
    assert second.pip_index_urls == ["https://pypi.org/simple"]
    assert LoraConfig().lora_attn_modules == ["q_proj", "v_proj", "output_proj"]
