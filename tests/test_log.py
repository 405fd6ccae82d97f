from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from kfasync import log


def test_an_event_is_one_line_with_its_values_beside_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kfasync")
    log.get("test").info("job_started", job="a%sb", backend="local")
    (record,) = caplog.records
    assert record.name == "kfasync.test"
    assert record.getMessage() == "job_started job='a%sb' backend='local'"
    assert record.kfasync == {"event": "job_started", "job": "a%sb", "backend": "local"}  # type: ignore[attr-defined]


def test_what_nobody_wants_to_see_is_not_rendered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "kfasync")
    log.get("test").warning("unseen", value=object())
    assert caplog.records == []


def test_the_library_prints_nothing_by_itself() -> None:
    program = "from kfasync import log; log.get('x').warning('a', b=1); log.get('x').error('c')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""
