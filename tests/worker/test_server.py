"""Kubeflow's progress protocol, by real requests from inside a rank."""

from __future__ import annotations

import pytest

from tests.worker.ranks import Ranks


def test_kubeflows_own_function_reports_with_no_change(ranks: Ranks) -> None:
    def train() -> bool:
        from kubeflow.trainer import update_trainjob_status

        return update_trainjob_status(
            progress_percent=40,
            estimated_remaining_seconds=90,
            metrics={"loss": 0.5, "note": "warm", "bad": float("nan")},
        )

    pytest.importorskip("kubeflow.trainer")
    ended = ranks.spawn(train).end()
    assert ended.value is True
    metric, progress = ended.reports
    assert (metric["m"], metric["src"]) == ({"loss": 0.5, "bad": "nan"}, "protocol")
    assert (progress["p"], progress["r"]) == (40.0, 90.0)


def test_our_function_reports_by_the_same_protocol_without_throttling(ranks: Ranks) -> None:
    def train() -> list[bool]:
        from kfasync.trainer import update_trainjob_status

        return [update_trainjob_status(step, 10 - step, {"loss": 1 / (step + 1)}) for step in range(10)]

    ended = ranks.run(train)
    assert ended.value == [True] * 10
    assert [line["p"] for line in ended.reports if line["k"] == "progress"] == [float(step) for step in range(10)]
    assert [line["m"]["loss"] for line in ended.reports if line["k"] == "metric"] == [1 / (s + 1) for s in range(10)]


def test_a_status_as_hugging_faces_callback_sends_it(ranks: Ranks) -> None:
    """By urllib with a Request, strings as values, the step among the metrics, a timestamp with an offset."""

    def train() -> int:
        import json
        import os
        import urllib.request
        from datetime import UTC, datetime

        with open(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"]) as file:
            token = file.read().strip()
        status = {
            "lastUpdatedTime": datetime.now(UTC).isoformat(),
            "progressPercentage": 99,
            "estimatedRemainingSeconds": 0,
            "metrics": [
                {"name": n, "value": v} for n, v in (("loss", "0.25"), ("current_step", "12"), ("total_steps", "12"))
            ],
        }
        request = urllib.request.Request(
            os.environ["KUBEFLOW_TRAINER_SERVER_URL"],
            data=json.dumps({"trainerStatus": status}).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=5, context=None) as response:
            return int(response.status)

    ended = ranks.run(train)
    assert ended.value == 200
    metric, progress = ended.reports
    assert metric["s"] == 12.0
    assert metric["m"] == {"loss": 0.25, "current_step": 12.0, "total_steps": 12.0}
    assert (progress["p"], progress["r"]) == (99.0, 0.0)


def test_what_is_no_status_is_refused_and_the_server_goes_on(ranks: Ranks) -> None:
    def train() -> list[bytes]:
        import os
        import socket

        host, port = (
            os.environ["KUBEFLOW_TRAINER_SERVER_URL"].removeprefix("http://").removesuffix("/status").split(":")
        )
        with open(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"], "rb") as file:
            auth = b"Authorization: Bearer " + file.read() + b"\r\n"

        def ask(data: bytes) -> bytes:
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n")[0]

        def post(body: bytes, headers: bytes = auth) -> bytes:
            return ask(b"POST /status HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(body), body))

        return [
            post(b"{}", b""),
            post(b"{}", b"Authorization: Bearer no\r\n"),
            post(b"{}"),
            post(b"[1]"),
            post(b"{torn"),
            post(b"[" * 50_000),
            post(b'{"trainerStatus": {"progressPercentage": "much"}}'),
            post(b'{"trainerStatus": {"metrics": [3]}}'),
            post(b'{"trainerStatus": {"progressPercentage": 1%b}}' % (b"0" * 400)),
            ask(b"POST /status HTTP/1.1\r\n" + auth + b"\r\n"),
            ask(b"POST /status HTTP/1.1\r\n" + auth + b"Content-Length: 99999999\r\n\r\n"),
            ask(b"POST /status HTTP/1.1\r\n" + auth + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
            ask(b"POST /status HTTP/1.1\r\n" + auth + b"Content-Length: 10\r\n\r\n{"),
            ask(b"GET /status HTTP/1.1\r\n\r\n"),
            ask(b"POST /other HTTP/1.1\r\n\r\n"),
            ask(b"\x00\xff garbage"),
            ask(b""),
            post(b'{"trainerStatus": {"progressPercentage": 1}}'),
        ]

    ended = ranks.run(train)
    codes = [int(line.split()[1]) for line in ended.value]
    assert codes == [401, 401, 400, 400, 400, 400, 400, 400, 400, 411, 413, 413, 400, 405, 404, 404, 404, 200]
    assert [line["p"] for line in ended.reports] == [1.0]


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(ranks: Ranks) -> None:
    def train() -> list[bytes]:
        import os
        import socket

        host, port = (
            os.environ["KUBEFLOW_TRAINER_SERVER_URL"].removeprefix("http://").removesuffix("/status").split(":")
        )
        with open(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"], "rb") as file:
            token = file.read()
        body = b'{"trainerStatus": {"progressPercentage": 7}}'
        with socket.create_connection((host, int(port))) as connection:
            head = b"POST /status HTTP/1.1\r\nAuthorization: Bearer %b\r\nExpect: 100-continue\r\n" % token
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
            first = connection.recv(4096)
            connection.sendall(body)
            return [first.split(b"\r\n")[0], connection.recv(4096).split(b"\r\n")[0]]

    ended = ranks.run(train)
    assert ended.value == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"]
    assert ended.reports[0]["p"] == 7.0


def test_a_configured_proxy_is_not_asked_for_loopback(ranks: Ranks) -> None:
    def train() -> tuple[bool, str]:
        import os

        from kfasync.worker import update_trainjob_status

        return update_trainjob_status(5), os.environ["no_proxy"]

    env = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "example.com"}
    assert ranks.run(train, env=env).value == (True, "example.com,127.0.0.1")


def test_a_url_that_the_controller_injected_is_kept(ranks: Ranks) -> None:
    def train() -> tuple[str, bool]:
        import os

        return os.environ["KUBEFLOW_TRAINER_SERVER_URL"], "KUBEFLOW_TRAINER_SERVER_TOKEN" in os.environ

    assert ranks.run(train, env={"KUBEFLOW_TRAINER_SERVER_URL": "https://x"}).value == ("https://x", False)


def test_the_server_is_no_thread_of_the_user_and_no_descriptor_of_its_children(ranks: Ranks) -> None:
    def train() -> tuple[int, str]:
        import subprocess
        import threading

        listing = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, close_fds=False).stdout
        return threading.active_count(), listing

    threads, listing = ranks.run(train).value
    assert threads == 1
    assert set(listing.split()) <= {"0", "1", "2", "3"}  # 3 is the directory that ls reads
