"""Runtime definitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.jobs import TrainerType, builtin_runtimes, default_runtime, load_runtimes


def test_the_package_brings_the_runtimes_of_the_announcement() -> None:
    runtimes = {runtime.name: runtime for runtime in builtin_runtimes()}
    assert {"torch-distributed", "torchtune-llama3.2-1b", "torchtune-qwen2.5-1.5b"} <= runtimes.keys()
    torch = runtimes["torch-distributed"].trainer
    assert (torch.trainer_type, torch.framework, torch.num_nodes) == (TrainerType.CUSTOM_TRAINER, "torch", 1)
    assert torch.command == ("torchrun",)
    assert runtimes["torchtune-llama3.2-1b"].trainer.trainer_type is TrainerType.BUILTIN_TRAINER


def test_changing_a_runtime_changes_no_other() -> None:
    builtin_runtimes()[0].trainer.set_command(("sh",))
    assert builtin_runtimes()[0].trainer.command == ("torchrun",)


def test_files_define_runtimes_and_the_last_definition_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('[mine]\nframework = "plainml"\n[yours]\nframework = "torch"\n')
    second.write_text('[mine]\nframework = "jax"\nnum_nodes = 3\nnum_proc_per_node = 2\nenv = { A = "1" }\n')
    mine, yours = load_runtimes([first, second])
    assert (mine.name, yours.name) == ("mine", "yours")
    assert (mine.trainer.framework, mine.trainer.num_nodes, mine.trainer.num_proc_per_node) == ("jax", 3, 2)
    assert mine.trainer.env == {"A": "1"}
    assert mine.trainer.command == ("python",)


@pytest.mark.parametrize("text", ["[mine]\n", "[mine\n", 'mine = "torch"\n', '[mine]\nframework = "x"\nnonsense = 1\n'])
def test_a_definition_that_makes_no_sense_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(InvalidSpecError, match=r"broken\.toml"):
        load_runtimes([path])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match=r"absent\.toml"):
        load_runtimes([tmp_path / "absent.toml"])


def test_the_default_runtime_can_be_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEFAULT_TRAINING_RUNTIME", raising=False)
    assert default_runtime() == "torch-distributed"
    monkeypatch.setenv("DEFAULT_TRAINING_RUNTIME", "mine")
    assert default_runtime() == "mine"
