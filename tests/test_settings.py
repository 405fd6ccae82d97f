from __future__ import annotations

from pathlib import Path

import pytest

from kfasync import settings
from kfasync.errors import InvalidSpecError


def test_unset_and_empty_variables_mean_the_defaults() -> None:
    assert settings.load({}) == settings.load({"KFASYNC_GRACE": "", "KFASYNC_HOME": ""})
    assert settings.load({}).ranks_per_core == 4


def test_variables_are_read_with_their_units() -> None:
    loaded = settings.load({"KFASYNC_GRACE": "2.5", "KFASYNC_LOG_LIMIT": "1024", "KFASYNC_HOME": "~/runs"})
    assert (loaded.grace, loaded.log_limit) == (2.5, 1024)
    assert loaded.home == Path.home() / "runs"


@pytest.mark.parametrize("name", ["KFASYNC_GRACE", "KFASYNC_LOG_LIMIT", "KFASYNC_IDLE_TIMEOUT"])
@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_a_value_that_makes_no_sense_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(InvalidSpecError, match=name):
        settings.load({name: value})
