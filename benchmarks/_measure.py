"""What the benchmarks share: samples, a table, homes of their own, rivals in environments of their own.

Clocks: every script uses ``time.monotonic_ns()``, which on Linux is one clock for all processes of a machine, so that a
moment inside a job can be compared with a moment in its client.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

__all__ = ["Figure", "main", "own_home", "p90", "rival", "stamp", "stamped"]


# A job gets `stamp` by value, as from a script of one file, and doesn't import this module and what it imports.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass
class Figure:
    """What one party needed.

    Attributes:
        who: ``kfasync``, a rival with its version, or ``limit: …``.
        samples: One number a repetition.
        unit: Of the samples.
        note: What a reader must know to compare.
    """

    who: str
    samples: list[float] = field(default_factory=list)
    unit: str = "ms"
    note: str = ""


def p90(samples: Sequence[float]) -> float:
    """The 90th percentile, by the nearest rank."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(figures: Sequence[Figure]) -> str:
    head = ("who", "n", "median", "p90", "unit", "note")
    rows = [
        (f.who, str(len(f.samples)), _number(statistics.median(f.samples)), _number(p90(f.samples)), f.unit, f.note)
        if f.samples
        else (f.who, "0", "-", "-", f.unit, f.note)
        for f in figures
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = {1, 2, 3}
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def machine() -> str:
    """The machine in a few words, to stand beside the numbers."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def main(
    claim: str,
    measure: Callable[[argparse.Namespace], list[Figure]],
    *,
    repeats: int = 20,
    **sizes: tuple[int, str],
) -> None:
    """Run one benchmark as a script.

    Args:
        claim: What the README says, with its limit.
        measure: Gives the figures; ``args.repeats`` is how often, ``args.rivals`` whether to run them.
        repeats: The default of ``--repeats``.
        sizes: More options of the script: default and help of each, a whole number.
    """
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--repeats", type=int, default=repeats, help="samples a figure (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--no-rivals", dest="rivals", action="store_false", help="measure ours and the limit only")
    for name, (default, meaning) in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default: %(default)s)")
    args = parser.parse_args()
    figures = measure(args)
    if args.json:
        print(json.dumps({"claim": claim, "machine": machine(), "figures": [_record(f) for f in figures]}))
    else:
        print(f"{claim}\n{machine()}\n\n{_table(figures)}")


def _record(figure: Figure) -> dict[str, Any]:
    known = bool(figure.samples)
    return asdict(figure) | {
        "median": statistics.median(figure.samples) if known else None,
        "p90": p90(figure.samples) if known else None,
    }


@contextlib.contextmanager
def own_home(**settings: str) -> Iterator[Path]:
    """A KFASYNC_HOME of the benchmark's own with its own supervisor, both gone afterwards.

    Args:
        settings: More settings, such as ``preload=""``.
    """
    with tempfile.TemporaryDirectory(prefix="kfasync-bench-", ignore_cleanup_errors=True) as directory:
        home = Path(directory) / "home"
        values = {"KFASYNC_HOME": str(home), "KFASYNC_BACKEND": "local"}
        values |= {f"KFASYNC_{key.upper()}": value for key, value in settings.items()}
        before = {key: os.environ.get(key) for key in values}
        os.environ.update(values)
        try:
            yield home
        finally:
            subprocess.run(
                [sys.executable, "-m", "kfasync.cli", "supervisor", "stop"], check=True, stdout=subprocess.DEVNULL
            )
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key)
                else:
                    os.environ[key] = value


def stamp(path: str) -> None:
    """Write the present moment; what a job's function does first or last."""
    import os
    import time

    now = time.monotonic_ns()
    with open(f"{path}.part", "w") as file:
        file.write(str(now))
    os.rename(f"{path}.part", path)


def stamped(path: Path) -> int:
    """The moment that `stamp` wrote, in nanoseconds."""
    return int(path.read_text())


def rival(variable: str, label: str, code: str, *args: str, unit: str = "ms", note: str = "") -> list[Figure]:
    """Run a rival's script in its own environment.

    Args:
        variable: Environment variable with the path of a Python that has the rival installed; unset means skipped.
        label: Who it is.
        code: A script that prints a JSON list of samples as its last line.
        args: Its arguments.
        unit: Of the samples.
        note: For the table.

    Returns:
        One figure, or none when the rival is not there.
    """
    python = os.environ.get(variable)
    if not python:
        return []
    with tempfile.TemporaryDirectory(prefix="rival-", ignore_cleanup_errors=True) as directory:
        script = Path(directory) / "rival.py"
        script.write_text(code)
        done = subprocess.run([python, str(script), *args], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Figure(label, unit=unit, note=f"failed: {last[:80]}")]
    return [Figure(label, json.loads(done.stdout.strip().splitlines()[-1]), unit, note)]
