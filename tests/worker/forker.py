"""Forks ranks on request, as a zygote does: a line of JSON in, the exit code out."""

from __future__ import annotations

import json
import os
import sys

import cloudpickle  # noqa: F401

import kfasync.worker


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for fd, path in ((1, request["stdout"]), (2, request["stderr"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
            os.closerange(3, 64)
            os.environ.clear()
            os.environ.update(request["env"])
            os.chdir(request["cwd"])
            kfasync.worker.run_rank(request["ctx"])
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


main()
