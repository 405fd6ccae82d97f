from __future__ import annotations

import os
import signal

from kfasync.worker import should_stop
from tests.worker.ranks import Ranks


def test_nobody_asked() -> None:
    # In a rank of its own: the first call changes what SIGTERM does to the process.
    child = os.fork()
    if child == 0:
        os._exit(int(should_stop()))
    assert os.waitpid(child, 0)[1] == 0


def test_a_rank_that_never_asked_ends_by_sigterm(ranks: Ranks) -> None:
    def train() -> None:
        import signal

        print("up")
        signal.pause()

    rank = ranks.spawn(train)
    assert rank.line() == "up"
    rank.process.terminate()
    assert rank.end().code == -signal.SIGTERM


def test_a_rank_that_asks_gets_its_grace(ranks: Ranks) -> None:
    def train() -> str:
        import os
        import signal

        import kfasync

        assert not kfasync.should_stop()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        print("up")
        os.read(reader, 1)
        return "saved" if kfasync.should_stop() and kfasync.should_stop() else "lost"

    rank = ranks.spawn(train)
    assert rank.line() == "up"
    rank.process.terminate()
    assert rank.end().value == "saved"


def test_the_stop_file_is_a_wish_to_stop(ranks: Ranks) -> None:
    def train() -> list[bool]:
        import kfasync

        before = kfasync.should_stop()
        open("../stop", "w").close()
        return [before, kfasync.should_stop()]

    assert ranks.run(train).value == [False, True]


def test_asked_from_another_thread_sigterm_still_leaves_the_grace(ranks: Ranks) -> None:
    def train() -> str:
        import os
        import signal
        import threading

        import kfasync

        thread = threading.Thread(target=kfasync.should_stop)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        return "alive"

    assert ranks.run(train).value == "alive"


def test_a_program_that_the_rank_starts_ends_by_sigterm(ranks: Ranks) -> None:
    def train() -> list[int]:
        import subprocess
        import sys
        import threading

        import kfasync

        thread = threading.Thread(target=kfasync.should_stop)
        thread.start()
        thread.join()
        code = "import signal; print('up', flush=True); signal.pause()"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.terminate()
        return [process.returncode]

    assert ranks.run(train).value == [-signal.SIGTERM]


def test_forked_children_of_a_rank_that_asked_end_by_sigterm(ranks: Ranks) -> None:
    def train(in_thread: bool) -> int | None:
        import multiprocessing
        import signal
        import threading

        import kfasync

        thread = threading.Thread(target=kfasync.should_stop)
        thread.start() if in_thread else kfasync.should_stop()
        if in_thread:
            thread.join()
        worker = multiprocessing.get_context("fork").Process(target=signal.pause)
        worker.start()
        worker.terminate()
        worker.join()
        return worker.exitcode

    assert ranks.run(train, in_thread=False).value == -signal.SIGTERM
    assert ranks.run(train, in_thread=True).value == -signal.SIGTERM


def test_a_handler_of_the_users_own_is_left_alone(ranks: Ranks) -> None:
    def train() -> list[object]:
        import os
        import signal

        import kfasync

        got: list[object] = []
        signal.signal(signal.SIGTERM, lambda *_: got.append("mine"))
        kfasync.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        open("../stop", "w").close()
        return [*got, kfasync.should_stop()]

    assert ranks.run(train).value == ["mine", True]
