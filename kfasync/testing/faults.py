"""What really went wrong for users of such systems, and the check that a backend has an answer to each case.

A backend maps every fault to the tests that provoke it, or to the reason why it can't occur there::

    MINE = {
        1: covered_by("suite::test_a_failing_function_raises_with_its_exception"),
        15: cannot_occur("there is no daemon"),
        17: covered_by("tests/mine/test_events.py::test_an_end_that_was_never_sent_is_found"),
        ...
    }

    def test_every_fault_has_an_answer():
        assert_faults_covered("mine", MINE, suite=TestMine, root=Path(__file__).parents[1])
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FAULTS", "Answer", "assert_faults_covered", "cannot_occur", "covered_by"]

#: The faults by number, the most frequent first.
FAULTS: Final[Mapping[int, str]] = {
    1: "the job raises: the waiter learns it at once, with exception, rank and last lines",
    2: "Ctrl-C or a kernel interrupt while following: prompt return, a hint, the policy for the job obeyed",
    3: "logs are followed before there is anything to read: wait, then start at the first byte",
    4: "bad image, unschedulable or no GPU: a typed pending reason within seconds, and an optional start deadline",
    5: "out of memory: named only where the kernel's or the engine's counter proves it, never guessed from 137",
    6: "the objective was never reported, is NaN, or its last value got lost: nothing stays Running for ever",
    7: "the client is killed in mid-sweep: a restart finds the same trials, runs none twice and leaves none hanging",
    8: "the kernel restarts or the process exits: children end by policy and devices become free",
    9: "grandchildren (data loaders) outlive the rank: the whole tree ends",
    10: "one rank dies while the others wait for it in a collective: the gang ends within grace, the first is named",
    11: "a flood of output, a line without end, progress bars: memory and disk stay bounded, the tail is kept",
    12: "the disk of the state or of the job fills up: the job fails as such, the journal stays whole",
    13: "thousands of jobs: constant use of descriptors, processes and threads; admission waits",
    14: "several clients and a dashboard on one store: no lock errors, readers never wait",
    15: "the daemon restarts: jobs are found again, exits learned by inspection, retries back off",
    16: "an idle event stream is closed by somebody in between: reconnected, nothing repeated, nothing missed",
    17: "a start or end is never announced: a second signal still ends the job",
    18: "the watch's history expired: list again, compare, make up for deletions, no loop",
    19: "a half-open connection: noticed within an inactivity limit",
    20: "a streaming list that never says it is complete: bounded, then the plain way",
    21: "a storm of 'too many requests' and server errors: wait as told, with jitter; the watcher lives",
    22: "a credential expires: renewed, nothing lost",
    23: "a log stream is cut by rotation or the network: resumed by cursor without repeats, or an explicit gap",
    24: "a log stream ends while the job runs: the job's status is asked before anything is called done",
    25: "a submit was accepted but its answer lost, and the client retries: one job",
    26: "a cancel races with the end or a restart: one terminal event, and the cancel is never lost",
    27: "cleaning up fails after the end: the terminal state stays",
    28: "a live trial's heartbeat is late: not declared dead, its late result accepted",
    29: "a callback or sink hangs or raises: the end is not delayed",
    30: "SIGTERM: time to save a checkpoint within a configurable grace, then SIGKILL",
    31: "SIGKILL without effect: a bounded wait, said so, the slot withheld",
    32: "a pid is used again: identity is pid, start time and boot; never signal a stranger",
    33: "the host was suspended: the gap in time is seen, state read anew, no false timeout",
    34: "the state directory is on a network filesystem: detected and refused",
    35: "a receive is cancelled: the event is kept for the next one",
    36: "a client is used from a second loop, after fork or off the main thread: it works or says clearly why not",
    37: "a result is hostile, huge or of another Python: a typed error and nothing run",
    38: "a secret in the environment: absent from events, journal, descriptions and logs",
    39: "a web page of another origin calls the service: refused for every method",
    40: "another local user connects to the socket: refused by uid",
    41: "an archive with parent paths or symlinks: refused",
    42: "many tabs and a slow browser: it loads; a slow reader is cut and catches up",
    43: "a stop while streams are open: over within a second, without a traceback",
    44: "a restart after a job has finished: it is not run again",
    45: "two first starts at once on a fresh store: both succeed",
}


@dataclass(frozen=True)
class Answer:
    """What a backend says about one fault: tests, or a reason."""

    tests: tuple[str, ...] = ()
    reason: str = ""


def covered_by(*tests: str) -> Answer:
    """The fault can occur, and these tests provoke it.

    Args:
        tests: ``"suite::test_name"`` for a test of the backend's conformance class, else a pytest node id without
            parameters, ``"path.py::test_name"`` or ``"path.py::TestClass::test_name"``, relative to ``root``.
    """
    return Answer(tests=tests)


def cannot_occur(reason: str) -> Answer:
    """The fault can't occur here, and why."""
    return Answer(reason=reason.strip())


def assert_faults_covered(
    backend_name: str,
    mapping: Mapping[int, Answer],
    *,
    suite: type | None = None,
    root: Path | None = None,
    among: Collection[int] = FAULTS.keys(),
) -> None:
    """Fail unless every fault has tests that exist and run, or a reason.

    Args:
        backend_name: For the message: a backend, or another part that answers for itself.
        mapping: The backend's answers by fault number.
        suite: The backend's conformance class, which ``suite::`` names refer to.
        root: The directory that node ids are relative to; the current one by default.
        among: The faults to answer; all of them by default.

    Raises:
        AssertionError: Lists everything that is wrong.
    """
    base = Path.cwd() if root is None else root
    problems = [f"fault {number} is unknown" for number in mapping if number not in FAULTS]
    for number in sorted(among):
        statement = FAULTS[number]
        answer = mapping.get(number, Answer())
        if not answer.tests and not answer.reason:
            problems.append(f"fault {number} has neither a test nor a reason: {statement}")
        problems += [f"fault {number}: {what}" for test in answer.tests if (what := _problem(test, suite, base))]
    assert not problems, f"faults of backend {backend_name!r}:\n" + "\n".join(f"  {problem}" for problem in problems)


def _problem(test: str, suite: type | None, root: Path) -> str:
    file, *names = test.split("::")
    if file == "suite":
        return _suite_problem(names, suite)
    path = root / file
    if not names or not path.is_file():
        return f"there is no test {test}"
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        found = next((node for node in body if isinstance(node, kinds) and node.name == name), None)
        if found is None:
            return f"there is no test {test}"
        body = found.body
    return ""


def _suite_problem(names: list[str], suite: type | None) -> str:
    function = getattr(suite, names[-1], None) if names else None
    if function is None:
        return f"there is no test {'::'.join(['suite', *names])}"
    missing = set(getattr(function, "__kfasync_needs__", ())) & set(getattr(suite, "missing", ()))
    if missing:
        return f"the test {names[-1]} is skipped here, for want of {', '.join(sorted(missing))}"
    return ""
