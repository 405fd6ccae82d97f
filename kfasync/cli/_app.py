"""The commands and their options. Bodies are imported when a command runs, so that ``--help`` and ``ps`` start fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import kfasync
from kfasync.cli._output import Output
from kfasync.cli._run import USAGE, perform, speaking

__all__ = ["run"]

Format = Annotated[Output, Parameter(name=["--output", "-o"], help="text, or json: one document, or a line per item.")]
Follow = Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on with what comes.")]
All = Annotated[bool, Parameter(name=["--all", "-a"], negative="", help="Also those that have ended.")]
Names = Annotated[list[str], Parameter(negative="", consume_multiple=True, help="Job names.")]

app = App(
    name="kfasync",
    version=kfasync.__version__,
    help="Run and follow training jobs. Where they run: KFASYNC_BACKEND.",
    help_format="plaintext",
    result_action="return_value",
)
supervisor = App(name="supervisor", help="The process that runs local jobs.")
app.command(supervisor)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name.

    Returns:
        The exit code: 0, the job's own (1 to 125), 100 for a job that failed without one, 124 after a timeout, 130
        after Ctrl-C, 2 for wrong usage, 1 for any other error.
    """
    try:
        code = speaking(lambda: app(arguments, exit_on_error=False))
    except CycloptsError:
        return USAGE
    return code if isinstance(code, int) else 0


@app.command
def ps(*, all: All = False, output: Format = "text") -> int:
    """List the jobs that have not ended; with -a all of them."""
    from kfasync.cli import _jobs

    return perform(lambda command: _jobs.ps(command, everything=all, output=output))


@app.command
def logs(
    name: str,
    /,
    *,
    follow: Follow = False,
    step: str = "node-0",
    tail: int | None = None,
    since: str | None = None,
    output: Format = "text",
) -> int:
    """Print a job's output.

    Args:
        name: The job.
        step: node-0, node-1, …; all merges the nodes and puts [node-0] before each line.
        tail: Only the last so many lines of what is there now.
        since: The cursor of a line (see -o json), to go on behind it, or a Unix time in seconds.
    """
    from kfasync.cli import _jobs

    return perform(
        lambda command: _jobs.logs(command, name, step=step, follow=follow, tail=tail, since=since, output=output)
    )


@app.command
def events(
    name: str | None = None, /, *, follow: Follow = False, since: int | None = None, output: Format = "text"
) -> int:
    """Print what happened to one job, or to all.

    Args:
        name: The job.
        since: The cursor of an event, to go on behind it.
    """
    from kfasync.cli import _jobs

    return perform(lambda command: _jobs.events(command, name, follow=follow, since=since, output=output))


@app.command
def wait(name: str, /, *, timeout: float | None = None, output: Format = "text") -> int:
    """Wait for a job's end and leave with its exit code.

    Args:
        name: The job.
        timeout: Seconds after which to leave with 124; the job goes on.
    """
    from kfasync.cli import _jobs

    return perform(lambda command: _jobs.wait(command, name, timeout=timeout, output=output))


@app.command
def report(
    name: str, /, *, output: Annotated[Path | None, Parameter(name=["--output", "-o"], show_default=False)] = None
) -> int:
    """Write a study's report: one HTML file with its trials and figures, which needs no network.

    Args:
        name: The study.
        output: The file; NAME.html by default.
    """
    from kfasync.cli import _report

    return _report.report(name, output or Path(f"{name}.html"))


def _control(action: str, names: list[str], output: Output) -> int:
    from kfasync.cli import _jobs

    return perform(lambda command: _jobs.control(command, action, names, output=output))


@app.command
def cancel(names: Names, /, *, output: Format = "text") -> int:
    """Stop jobs; they end as Failed(Cancelled) and keep their logs."""
    return _control("cancel", names, output)


@app.command
def suspend(names: Names, /, *, output: Format = "text") -> int:
    """Stop jobs with grace, to be resumed later."""
    return _control("suspend", names, output)


@app.command
def resume(names: Names, /, *, output: Format = "text") -> int:
    """Start suspended jobs again."""
    return _control("resume", names, output)


@app.command
def delete(names: Names, /, *, output: Format = "text") -> int:
    """Stop jobs that run, and remove everything of them."""
    return _control("delete", names, output)


@app.command(name="run")
def run_script(
    script: Path,
    /,
    *args: Annotated[str, Parameter(allow_leading_hyphen=True)],
    name: str | None = None,
    nodes: int | None = None,
    procs: int | None = None,
    env: Annotated[list[str] | None, Parameter(name=["--env", "-e"], negative="")] = None,
    package: Annotated[list[str] | None, Parameter(negative="")] = None,
    detach: Annotated[bool, Parameter(name=["--detach", "-d"], negative="")] = False,
    output: Format = "text",
) -> int:
    """Run a script as a job, print its output, and leave with its exit code.

    Args:
        script: The script.
        args: Its arguments, behind --.
        name: The job's name.
        nodes: How many nodes.
        procs: How many processes a node.
        env: A variable for the job, NAME=value; may be repeated.
        package: A pip requirement to install before; may be repeated.
        detach: Only submit it and print its name.
    """
    from kfasync.cli import _jobs

    async def body(command: Any) -> int:
        keywords = {
            "args": args,
            "name": name,
            "num_nodes": nodes,
            "num_proc_per_node": procs,
            "env": _jobs.parse_env(env or ()),
            "packages_to_install": package,
        }
        return await _jobs.submit(command, script, keywords, attached=not detach, output=output)

    return perform(body)


@supervisor.command(name="status")
def supervisor_status(*, output: Format = "text") -> int:
    """Print the supervisor's process, jobs and zygotes; 1 when none runs."""
    from kfasync.cli import _supervisor

    return _supervisor.status(output)


@supervisor.command(name="stop")
def supervisor_stop(*, output: Format = "text") -> int:
    """Have the supervisor leave; jobs go on, and the next one adopts them."""
    from kfasync.cli import _supervisor

    return _supervisor.stop(output)
