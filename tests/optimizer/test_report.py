"""The report of a study in a real browser: what it shows, that it is whole, and that hostile text stays text."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kfasync.optimizer import (
    TPE,
    AsyncOptimizerClient,
    MedianStop,
    Objective,
    OptimizationJob,
    Search,
    StopRules,
    Trial,
    TrialConfig,
)
from kfasync.optimizer._report import report_of, write_report
from kfasync.optimizer._wording import visible
from tests.optimizer.browser import Browser, installed
from tests.optimizer.functions import report_thrice
from tests.optimizer.studies import finished, template
from tests.optimizer.views import HOSTILE, losses, study, trial

# A page of five megabytes is read for each test, and Optuna's importances load all of scikit-learn where that is.
pytestmark = pytest.mark.slow

_FIGURES = ("history", "intermediate", "importances", "parallel_coordinates", "slice", "pareto")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = installed()
    if path is None:
        if "browser" in os.environ.get("KFASYNC_TEST_ENGINES", ""):
            pytest.fail("no browser is installed")
        pytest.skip("no browser is installed: apt-get install chromium")
    with Browser(path, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def hostile_study() -> OptimizationJob:
    """Every kind of trial, every name an attack."""
    img, script, link, escapes = HOSTILE
    space = {
        "lr": Search.loguniform(1e-5, 1e-1),
        script: Search.choice([img, link, None]),
        escapes: Search.uniform(0, 1).when(script, img),
    }
    trials = []
    for number in range(30):
        choice = [img, link, None][number % 3]
        point = {"lr": 10 ** -(1 + number % 4), script: choice, **({escapes: number / 30} if choice == img else {})}
        status = "complete" if number < 24 else ["failed", "pruned", "running"][number % 3]
        value = math.inf if number == 5 else (number - 11) ** 2 / 10
        told = {img: value, "acc": 1 / (number + 1), link: 0.5} if status in ("complete", "pruned") else {}
        curves = {img: [(float(step), value + 5 / (step + 1)) for step in range(10)]} if number % 5 else {}
        why = {"reason": script, "message": link} if status == "failed" else {}
        trials.append(trial(number, status, point, told, curves=curves, **why))
    return study(
        *trials, space=space, metrics=(img, "acc"), name="hostile", message=script, algorithm=TPE(random_state=7),
        objectives=[Objective(img), Objective("acc", "maximize")], trial_config=TrialConfig(40, 4),
    )  # fmt: skip


def show(browser: Browser, job: OptimizationJob, path: Path) -> None:
    browser.open(write_report(job, path))


def texts(browser: Browser, selector: str) -> Any:
    return browser.ask(f"[...document.querySelectorAll({selector!r})].map(each => each.textContent)")


# -------------------------------------------------------------------- what it shows


def test_every_figure_is_drawn_and_the_console_is_quiet(browser: Browser, tmp_path: Path) -> None:
    job = hostile_study()
    show(browser, job, tmp_path / "report.html")
    assert browser.complaints == []
    for name in _FIGURES:
        assert browser.ask(f"document.querySelectorAll('#figure-{name} .main-svg').length") > 0, name
    # 23 complete ones, one of the 24 infinite, and two pruned ones; of the other objective one more.
    assert browser.ask("document.querySelectorAll('#figure-history .scatterlayer .point').length") == 25 + 26
    assert browser.ask("document.querySelectorAll('#figure-importances .bars .point').length") == 3
    assert browser.ask("document.querySelectorAll('#figure-intermediate .js-line').length") >= 3
    lines = "(() => { const canvas = document.querySelector('#figure-parallel_coordinates canvas.gl-canvas-context'); "
    lines += "return canvas.width * canvas.height })()"
    assert browser.ask(lines) > 10_000
    assert "1 infinite value is not drawn" in texts(browser, "#figure-slice text")


def test_a_page_has_a_row_a_trial_and_what_katib_s_page_shows(browser: Browser, tmp_path: Path) -> None:
    job = study(
        *losses(3.0, 0.5, 2.0, curves={}), trial(3, "failed", reason="OOMKilled", message="no room"),
        status="Complete", reason="Goal", message="it is good enough", stop=StopRules(goal=0.6, timeout=60),
        early_stopping=MedianStop(n_warmup_steps=3), algorithm=TPE(random_state=42), trial_config=TrialConfig(9, 2),
    )  # fmt: skip
    show(browser, job, tmp_path / "report.html")
    assert browser.ask("document.title") == "demo: Complete"
    assert browser.ask("document.querySelectorAll('#trials tbody tr').length") == 4
    rows = browser.ask(
        "[...document.querySelectorAll('#trials tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert rows[1] == ["1", "complete", "0.5", "0.01", "2", "adam", "", "2.5", "", "demo-1"]
    assert rows[3][1] == "failed"
    assert rows[3][-2] == "OOMKilled: no room"
    best = browser.ask("[...document.querySelectorAll('#best tbody tr')].map(row => row.cells[0].textContent)")
    assert best == ["1"]
    about = dict(
        browser.ask("[...document.querySelectorAll('#about tr')].map(row => [...row.cells].map(c => c.textContent))")
    )
    assert about["status"] == "Complete (Goal)"
    assert (about["why"], about["objective"], about["goal"]) == ("it is good enough", "minimize loss", "0.6")
    assert texts(browser, ".counts li") == ["0running", "3complete", "1failed", "0pruned"]
    search = browser.ask(
        "[...document.querySelectorAll('#search tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    assert ["lr", "float", "min 1e-05, max 0.1, distribution logUniform", ""] in search
    assert ["kind", "choice", "sgd | adam | None", ""] in search
    assert ["momentum", "float", "min 0, max 1, distribution uniform", "kind = sgd"] in search
    settings = [["algorithm", "tpe"], ["random_state", "42"], ["rule", "medianstop"], ["n_warmup_steps", "3"],
                ["num_trials", "9"], ["timeout", "60"]]  # fmt: skip
    assert all(each in search for each in settings)


@pytest.mark.parametrize("trials", [[], losses(1.0, curves={}), [trial(0, "running", curves={})]])
def test_a_study_without_much_to_show_says_what_it_lacks(browser: Browser, tmp_path: Path, trials: list[Trial]) -> None:
    show(browser, study(*trials), tmp_path / "report.html")
    assert browser.complaints == []
    said = " ".join(texts(browser, ".nothing"))
    assert "no trial of 'demo' has reported 'loss' so far" in said
    complete = any(trial.status == "complete" for trial in trials)
    assert ("no trial of 'demo' is complete so far" in said) == (not complete)
    assert ("wait until two complete trials differ" in said) == complete


def test_a_page_of_thousands_of_values_is_drawn(browser: Browser, tmp_path: Path) -> None:
    curve = [(float(step), 1 / (step + 1)) for step in range(50)]
    job = study(*losses(*range(1000), curves={"loss": curve}))
    show(browser, job, tmp_path / "report.html")
    assert browser.complaints == []
    assert browser.ask("document.querySelectorAll('#trials tbody tr').length") == 1000
    assert browser.ask("document.querySelectorAll('#figure-history .scatterlayer .point').length") == 1000
    assert (
        browser.ask("document.getElementById('figure-intermediate').data.reduce((n, each) => n + each.x.length, 0)")
        == 51_000
    )


# -------------------------------------------------------------------- that it is whole, and safe


def test_a_page_asks_for_nothing_but_itself(browser: Browser, tmp_path: Path) -> None:
    show(browser, hostile_study(), tmp_path / "report.html")
    assert [url for url in browser.requests if not url.startswith(("data:", "blob:"))] == [
        (tmp_path / "report.html").as_uri()
    ]


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    show(browser, hostile_study(), tmp_path / "report.html")
    assert browser.ask("document.title") == "hostile: Running"
    assert browser.ask("document.querySelectorAll('main img, main script, main b, a:not([href^=\"#\"])').length") == 0
    cells = set(texts(browser, "td, th"))
    assert {visible(name) for name in HOSTILE} <= cells
    drawn = " ".join(texts(browser, "svg text"))
    for start in ("<img src=x", "</script><script>", "<b>&amp;$x^2$ %{x}"):
        assert start in drawn
    assert "&lt;" not in drawn


def test_what_slips_through_runs_nothing_and_loads_nothing(browser: Browser, tmp_path: Path) -> None:
    slip = (
        "<script>document.title = 'owned'</script><img src='http://127.0.0.1:9/x' onerror=\"document.title='owned'\">"
    )
    page = tmp_path / "report.html"
    page.write_text(report_of(study(*losses(1.0, 2.0))).replace("<main>", f"<main>{slip}"))
    browser.open(page)
    assert browser.ask("document.title") == "demo: Running"
    assert len(browser.complaints) >= 2
    # The figures are drawn all the same.
    assert browser.ask("document.querySelectorAll('#figure-history .main-svg').length") > 0


# -------------------------------------------------------------------- how it is used


def _column(browser: Browser, column: int) -> Any:
    return browser.ask(
        f"[...document.querySelectorAll('#trials tbody tr')].map(row => row.cells[{column}].textContent)"
    )


def test_a_table_is_sorted_by_keyboard_and_says_so(browser: Browser, tmp_path: Path) -> None:
    job = study(*losses(3.0, 10.0, math.inf, 0.5), trial(4, "failed"))
    show(browser, job, tmp_path / "report.html")
    browser.ask("document.querySelector('#trials .scroll').focus()")
    for _ in range(3):
        browser.press("Tab")
    assert browser.ask("document.activeElement.textContent") == "loss"
    browser.press("Enter", "\r")
    assert _column(browser, 2) == ["0.5", "3", "10", "inf", ""]
    assert browser.ask("document.activeElement.parentElement.getAttribute('aria-sort')") == "ascending"
    browser.press("Enter", "\r")
    assert _column(browser, 2) == ["inf", "10", "3", "0.5", ""]
    assert browser.ask("document.querySelectorAll('[aria-sort]').length") == 1


def test_the_trials_are_searched(browser: Browser, tmp_path: Path) -> None:
    show(browser, study(*losses(3.0, 1.0), trial(2, "failed", reason="OOMKilled")), tmp_path / "report.html")
    browser.ask("(() => { const input = document.querySelector('#trials input'); input.value = 'oomk'; "
                "input.dispatchEvent(new Event('input')) })()")  # fmt: skip
    assert browser.ask("[...document.querySelectorAll('#trials tbody tr')].map(row => row.hidden)") == [
        True,
        True,
        False,
    ]


def test_page_and_figures_follow_the_system_into_the_dark(browser: Browser, tmp_path: Path) -> None:
    browser.prefer("light")
    show(browser, study(*losses(1.0, 2.0)), tmp_path / "report.html")
    figure = "document.querySelector('#figure-history .main-svg').style.background"
    colors = f"[getComputedStyle(document.body).backgroundColor, {figure}]"
    light = browser.ask(colors)
    browser.prefer("dark")
    # Drawn anew when the browser comes to it; a page that does not follow never answers, and the test times out.
    changed = f"{colors}.every((color, index) => color !== {json.dumps(light)}[index])"
    look = f"const look = () => {changed} ? done(true) : requestAnimationFrame(look); look();"
    assert browser.ask(f"new Promise(done => {{ {look} }})")
    browser.prefer("light")


# -------------------------------------------------------------------- of a real study


@pytest.mark.anyio
async def test_the_client_and_the_command_write_the_report_of_a_real_study(
    optimizer: AsyncOptimizerClient, home: Path, tmp_path: Path
) -> None:
    config = TrialConfig(6, 2)
    name = await optimizer.optimize(
        template(report_thrice), search_space={"x": Search.uniform(0, 1)}, trial_config=config, name="seen"
    )
    await finished(optimizer, name)
    path = await optimizer.report(name, tmp_path / "by-client.html")
    command = [sys.executable, "-m", "kfasync.cli", "report", "seen", "-o", str(tmp_path / "by-command.html")]
    env = os.environ | {"KFASYNC_HOME": str(home), "KFASYNC_BACKEND": "local"}
    done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'by-command.html'}\n", "")
    for written in (path, tmp_path / "by-command.html"):
        page = written.read_text()
        assert page.count('<td class="complete">') == 7
        assert "figure-intermediate" in page
        assert all(f"<td>seen-{number}</td>" in page for number in range(6))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody"], "no job is named 'nobody'"),
        (["seen", "-o", "/nowhere/at/all.html"], "/nowhere/at/all.html can't be written"),
    ],
)
def test_a_report_that_can_not_be_written_is_one_line_and_code_1(home: Path, arguments: list[str], told: str) -> None:
    env = os.environ | {"KFASYNC_HOME": str(home), "KFASYNC_BACKEND": "local"}
    command = [sys.executable, "-m", "kfasync.cli", "report", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert told in done.stderr


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(study(*losses(1.0)), path)
    write_report(dataclasses.replace(study(*losses(1.0)), name="other"), path)
    assert "<title>other: Running</title>" in path.read_text()
