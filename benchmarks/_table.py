"""Runs every benchmark and prints the README's table of numbers: ``python benchmarks/_table.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ORDER = [
    "start_latency",
    "exit_latency",
    "failure_latency",
    "throughput",
    "gloo_allreduce",
    "cold_start",
    "follow_latency",
    "memory",
    "import_time",
    "flood",
    "study_throughput",
    "study_slot_idle",
    "study_cold_start",
    "study_driver_killed",
    "study_record",
    "study_loop_block",
    "study_quality",
]


def _cell(figures: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{_label(figure['who'])} {figure['median']:,.3g} {figure['unit']}".strip()
        if figure["median"] < 1000
        else f"{_label(figure['who'])} {figure['median']:,.0f} {figure['unit']}".strip()
        for figure in figures
        if figure["median"] is not None
    )


def _label(who: str) -> str:
    for prefix in ("limit: ", "kfasync, ", "kfasync: ", "kfasync"):
        if who.startswith(prefix):
            return who.removeprefix(prefix)
    return who


def _ours(who: str) -> bool:
    return who.startswith(("kfasync", "client", "supervisor", "zygote"))


def main() -> None:
    here = Path(__file__).parent
    rows, machine = [], ""
    for name in _ORDER:
        command = [sys.executable, str(here / f"{name}.py"), "--json"]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        machine, figures = report["machine"], report["figures"]
        limits = [figure for figure in figures if figure["who"].startswith("limit: ")]
        ours = [figure for figure in figures if _ours(figure["who"])]
        rivals = [figure for figure in figures if figure not in limits and figure not in ours]
        rows.append(f"| {report['claim']} | {_cell(ours)} | {_cell(rivals) or '-'} | {_cell(limits)} |")
    print(f"Medians, measured on {machine}, torch 2.13.\n")
    print("| claim | kfasync | rivals, same run | limit, same run |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
