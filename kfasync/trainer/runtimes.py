"""Training runtimes: those that come with the package, and how to read more from files."""

from kfasync.jobs import builtin_runtimes, default_runtime, load_runtimes

__all__ = ["builtin_runtimes", "default_runtime", "load_runtimes"]
