"""optuna-dashboard over the studies of KFASYNC_HOME, on a free port of the loopback, which it prints."""

from __future__ import annotations

from wsgiref.simple_server import make_server

from optuna_dashboard import wsgi

from kfasync.optimizer import optuna_storage

if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, wsgi(optuna_storage()))
    print(server.server_port, flush=True)
    server.serve_forever()
