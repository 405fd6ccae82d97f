"""What the function returned, on its way out."""

from __future__ import annotations

import json
import os
from typing import Any

from ._end import write_private
from ._report import emit

__all__ = ["keep"]

_LIMIT = 1 << 20  # bytes of a result that travels among the lines of a log


def keep(value: Any, path: str) -> None:
    """Write the value where the client will look for it: a file of this user's, or a marked line of stdout.

    Raises:
        Exception: Whatever its pickling raises.
    """
    if os.environ.get("KFASYNC_REPORT") == "stdout":
        # Python's JSON knows nan and inf, and so does the reader.
        if len(json.dumps(value)) > _LIMIT:
            raise ValueError(f"the result is larger than {_LIMIT} bytes of JSON; save it to a file instead")
        emit({"k": "result", "v": value})
        return
    write_private(path + ".tmp", _pickled(value))
    os.replace(path + ".tmp", path)


def _pickled(value: Any) -> bytes:
    import pickle

    if value is None:
        return pickle.dumps(None)  # a script's, which has no use for cloudpickle
    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(value)
    data: bytes = cloudpickle.dumps(value)
    return data
