"""Function or script into something runnable: the only place where that happens.

A `Payload` is plain data. `kfasync.worker.run_rank` runs it in a process of this machine; `to_zip` wraps it with the
worker and a vendored cloudpickle for containers and pods.
"""

from __future__ import annotations

from kfasync.payload._function import from_function
from kfasync.payload._payload import Payload, from_script, none
from kfasync.payload._zip import to_zip

__all__ = ["Payload", "from_function", "from_script", "none", "to_zip"]
