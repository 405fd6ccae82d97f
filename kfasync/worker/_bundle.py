"""The start of a rank from a payload's zip file."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from ._run import run_rank

__all__ = ["main"]


def main(loader: Any) -> NoReturn:
    """Run the rank that the context file describes; the rest of the context is in the zip.

    Args:
        loader: The zip's importer.
    """

    def read(name: str) -> bytes:
        data: bytes = loader.get_data(os.path.join(loader.archive, *name.split("/")))
        return data

    with open(sys.argv[1], encoding="utf-8") as file:
        context = json.load(file)
    context.update(json.loads(read("payload/meta.json")))
    context["data"] = read("payload/data")
    local = os.path.join(os.path.abspath(loader.archive), "local")
    context["path"] = [*context.get("path", ()), local]
    if context["kind"] == "script":
        context["filename"] = os.path.join(local, context["filename"])
    elif tuple(context["python"]) != sys.version_info[:2]:
        try:
            context["source"] = read("payload/source").decode()
            context["name"], context["arguments"] = read("payload/name").decode(), read("payload/arguments")
        except OSError:
            context["source"] = ""  # it can't stand alone; loading it will say what that means
    run_rank(context)
