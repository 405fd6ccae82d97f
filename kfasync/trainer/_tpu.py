"""How many nodes a TPU job needs."""

from __future__ import annotations

import math

from kfasync.errors import InvalidSpecError

__all__ = ["get_tpu_num_nodes"]


def get_tpu_num_nodes(num_slices: int, topology: str, chips_per_host: int = 4) -> int:
    """The number of nodes (hosts) of a job over TPU slices.

    Args:
        num_slices: Slices.
        topology: Chips of a slice in each dimension, such as ``"2x4"`` or ``"2x2x2"``.
        chips_per_host: Chips of one host.

    Raises:
        InvalidSpecError: An argument is out of range, or a slice is no whole number of hosts.

    Example:
        >>> get_tpu_num_nodes(2, "4x4")
        8
    """
    for what, value in (("num_slices", num_slices), ("chips_per_host", chips_per_host)):
        if value <= 0:
            raise InvalidSpecError(f"{what} must be at least 1, not {value}")
    sides = (topology or "").lower().split("x")
    if len(sides) not in (2, 3) or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise InvalidSpecError(f"topology must be of the form '2x4' or '2x2x2', not {topology!r}")
    chips = math.prod(int(side) for side in sides)
    if chips > chips_per_host and chips % chips_per_host:
        raise InvalidSpecError(f"{chips} chips of a {topology} slice are no whole number of hosts of {chips_per_host}")
    return num_slices * max(1, chips // chips_per_host)
