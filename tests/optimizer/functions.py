"""What the tests' trials do. Imported by every one of them, so it must be light."""

from __future__ import annotations


def square(x: float) -> None:
    print(f"loss={x * x}")


def wait_for_ever(x: float) -> None:
    import signal

    print("waiting", flush=True)
    signal.pause()


def tell_types(lr: float, size: int, kind: str, momentum: float = 0.0) -> None:
    import os

    assert (type(lr), type(size), type(kind)) == (float, int, str)
    assert (momentum > 0) == (kind == "sgd")
    assert os.environ["KUBEFLOW_TRAINER_OPT_SIZE"] == str(size)
    print(f"loss={size}")


def two(x: float) -> None:
    print(f"loss={x}\naccuracy={x}")


def fail_above(x: float) -> None:
    if x > 0.5:
        raise ValueError(f"{x} diverged")
    print(f"loss={x}")


def one_good(x: float) -> None:
    import signal

    if x > 0:
        signal.pause()
    print(f"loss={x}")


def good_or_endless(x: float) -> None:
    import signal

    import kfasync

    for step in range(3):
        kfasync.report(step=step, loss=x)
    if x > 0.5:
        signal.pause()


def count_starts(x: float) -> None:
    """The first start of a trial waits; the second one, in the same directory, ends."""
    import os
    import signal

    if not os.path.exists("begun"):
        open("begun", "w").close()
        print("begun", flush=True)
        signal.pause()
    print(f"loss={x}")


def tell_all(folder: str, x: float) -> None:
    """Says when it begins and when it ends, in a file of its job's own."""
    import os

    with open(os.path.join(folder, os.environ["KFASYNC_JOB_NAME"]), "a", buffering=1) as file:
        file.write("began\n")
        sum(range(500_000))
        print(f"loss={x}", flush=True)
        file.write("ended\n")


def wait_once(folder: str, x: float) -> None:
    """The first trial of all waits for ever; those after it end."""
    import os
    import signal

    try:
        open(os.path.join(folder, "begun"), "x").close()
    except FileExistsError:
        print(f"loss={x}")
    else:
        print("begun", flush=True)
        signal.pause()


def report_when_told(x: float) -> None:
    """A bad trial waits for a word before it reports."""
    import os
    import signal

    import kfasync

    if x > 0.5:
        os.mkfifo("fifo")
        print("ready", flush=True)
        with open("fifo") as fifo:
            fifo.read()
    kfasync.report(step=0, loss=x)
    if x > 0.5:
        signal.pause()


def two_kinds(x: float, kind: str) -> None:
    import kfasync

    for step in range(3):
        kfasync.report(step=step, loss=10 * x + (3 - step) + (kind == "a") / 10)


def say(text: str, x: float) -> None:
    """Writes a text as it stands, and exits at once."""
    import sys

    sys.stdout.write(text)


def tell(reports: list[dict[str, float]], x: float) -> None:
    """Reports what it is given."""
    import kfasync

    for each in reports:
        kfasync.report(**each)


def tell_by_rank(printed: bool, x: float) -> None:
    """Every rank says its own number, rank 0 the largest one."""
    import os

    import kfasync

    loss = 10 - int(os.environ["RANK"])
    if printed:
        print(f"loss={loss}")
    else:
        kfasync.report(step=0, loss=loss)


def tear(x: float) -> None:
    """Its last report is cut in the middle, as by a full disk or a kill."""
    import os

    with open(os.environ["KFASYNC_REPORT_FILE"], "w") as file:
        file.write('{"k":"metric","t":1.0,"s":0,"m":{"los')


def pass_gate(path: str, x: float) -> None:
    """Waits until the test lets go of a file."""
    import fcntl

    print("waiting", flush=True)
    with open(path) as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
    print(f"loss={x}")


def report_thrice(x: float) -> None:
    """A metric with steps, one of which comes twice, and one that is said once."""
    import kfasync

    kfasync.report(step=0, loss=9.0 * x)
    for step in range(3):
        kfasync.report(step=step, loss=(3 - step) * x)
    kfasync.report(step=5, accuracy=0.5)
