"""Nodes of TPU jobs."""

from __future__ import annotations

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.trainer import get_tpu_num_nodes


@pytest.mark.parametrize(
    ("slices", "topology", "chips", "nodes"),
    [(1, "2x2", 4, 1), (2, "4x4", 4, 8), (1, "2X2x4", 4, 4), (3, "1x1", 4, 3), (1, "2x4", 8, 1)],
)
def test_nodes_are_counted_over_the_slices(slices: int, topology: str, chips: int, nodes: int) -> None:
    assert get_tpu_num_nodes(slices, topology, chips) == nodes


@pytest.mark.parametrize(
    ("slices", "topology", "chips"),
    [
        (0, "2x2", 4),
        (1, "2x2", 0),
        (1, "", 4),
        (1, "4", 4),
        (1, "2x2x2x2", 4),
        (1, "2xa", 4),
        (1, "0x2", 4),
        (1, "3x3", 4),
    ],
)
def test_what_makes_no_sense_is_refused(slices: int, topology: str, chips: int) -> None:
    with pytest.raises(InvalidSpecError):
        get_tpu_num_nodes(slices, topology, chips)
