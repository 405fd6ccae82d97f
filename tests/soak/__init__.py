"""Soaks: a tenth runs as a test, the whole by ``python -m tests.soak``."""
