"""Kubeflow's progress protocol, served by the rank to itself.

Hugging Face's Trainer and Kubeflow's ``update_trainjob_status`` POST ``{"trainerStatus": …}`` to the URL in their
environment. Here it is on loopback, behind a bearer token that only this user can read, and each request becomes lines
of the rank's reports. Plain sockets in one thread: importing http.server would cost a rank 15 ms.
"""

from __future__ import annotations

import _thread
import json
import os
from typing import TYPE_CHECKING, Any

from ._report import emit_metrics, emit_progress

if TYPE_CHECKING:
    import socket

__all__ = ["start"]

_PATH = "/status"
_HEAD_LIMIT = 16 << 10  # bytes; a request line and headers are far smaller
_BODY_LIMIT = 64 << 10  # bytes; what Kubeflow's own server takes
_PATIENCE = 2.0  # seconds for one request; its clients give up after 5
_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    411: "Length Required", 413: "Content Too Large", 500: "Internal Server Error",
}  # fmt: skip


def start(token_file: str) -> None:
    """Serve, and say so in the environment.

    Args:
        token_file: Where to write the token; only the user may read there.
    """
    import socket

    token = os.urandom(32).hex()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    fd = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, token.encode())
    finally:
        os.close(fd)
    os.environ["KUBEFLOW_TRAINER_SERVER_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}{_PATH}"
    os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"] = token_file
    os.environ.pop("KUBEFLOW_TRAINER_SERVER_CA_CERT", None)
    _bypass_proxy()
    # Below `threading`: not one of the user's threads, not counted or waited for, and started in a tenth of the time.
    _thread.start_new_thread(_serve, (listener, token))


def _bypass_proxy() -> None:
    # Clients ask a configured proxy even for loopback, and it could not reach us.
    if any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        for name in ("no_proxy", "NO_PROXY"):
            have = os.environ.get(name)
            os.environ[name] = f"{have},127.0.0.1" if have else "127.0.0.1"


def _serve(listener: socket.socket, token: str) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_PATIENCE)
            try:
                _answer(connection, _handle(connection, token))
            except OSError:
                continue  # that client went away or was too slow; the next one matters as much


def _answer(connection: socket.socket, code: int) -> None:
    body = b"{}\n" if code == 200 else json.dumps({"message": _REASONS[code]}).encode()
    head = f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)


def _handle(connection: socket.socket, token: str) -> int:
    import hmac

    head, _, body = _read_head(connection)
    method, path, headers = _parse_head(head)
    if path != _PATH:
        return 404
    if method != "POST":
        return 405
    if not hmac.compare_digest(headers.get("authorization", "").encode(), f"Bearer {token}".encode()):
        return 401
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        return 411
    # More digits than that are no number to int().
    if len(length) > 9 or int(length) > _BODY_LIMIT:
        return 413
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(body) < int(length):
        chunk = connection.recv(int(length) - len(body))
        if not chunk:
            return 400
        body += chunk
    return _record(body)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD_LIMIT:
        chunk = connection.recv(_HEAD_LIMIT)
        if not chunk:
            break
        data += chunk
    return data.partition(b"\r\n\r\n")


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return method, rest.partition(" ")[0], headers


def _record(body: bytes) -> int:
    """Turn a status into lines; the answer comes after they are written, so a client that has it has them."""
    try:
        status = json.loads(body)["trainerStatus"]
        percent, remaining = (_float(status.get(key)) for key in ("progressPercentage", "estimatedRemainingSeconds"))
        values = _metrics(status.get("metrics") or [])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return 400
    try:
        if values:
            # Where Hugging Face's Trainer puts its step.
            emit_metrics(values, values.get("current_step"), src="protocol")
        if percent is not None or remaining is not None:
            emit_progress(percent, remaining, src="protocol")
    except OSError:
        return 500
    return 200


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _metrics(entries: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics that are numbers; Kubeflow's are strings of any kind, and others are not ours to judge."""
    values = {}
    for entry in entries:
        try:
            values[str(entry["name"])] = float(entry["value"])
        except (ValueError, OverflowError):
            continue
    return values
