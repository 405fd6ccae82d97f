"""Parsers of what jobs print and report, on sane and hostile input."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kfasync.state import parse_metrics, parse_report
from kfasync.state._metrics import is_printable, summarise

KATIB = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)", re.ASCII)


def katib(line: str) -> list[tuple[str, float]]:
    """Katib's rule as it stands; a value that is no number counts for nothing."""
    found = []
    for match in KATIB.finditer(line):
        if any(character.isdigit() for character in re.split("[eE]", match[2])[0]):
            found.append((match[1], float(match[2])))
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("loss=0.5", [("loss", 0.5)]),
        ("epoch 3: loss = 2.5e-1, acc=+.75", [("loss", 0.25), ("acc", 0.75)]),
        ("val-loss=1 a_b=-2", [("val-loss", 1.0), ("a_b", -2.0)]),
        ("a=1b=2", [("a", 1.0), ("b", 2.0)]),
        ("a=b=3", [("b", 3.0)]),
        ("a=-b=3", [("b", 3.0)]),
        ("size=10GB", [("size", 10.0)]),
        ("x=inf y=-Infinity", [("x", math.inf), ("y", -math.inf)]),
        ("x=information y=nano", []),
        ("x= y=", []),
        ("100% |####| loss=1.0\r", [("loss", 1.0)]),
        ("größe=3", [("e", 3.0)]),
        ("", []),
    ],
)
def test_name_value_pairs_are_found(line: str, expected: list[tuple[str, float]]) -> None:
    assert parse_metrics(line) == expected


def test_nan_is_a_value() -> None:
    [(name, value)] = parse_metrics("loss=NaN")
    assert name == "loss"
    assert math.isnan(value)


@given(st.text(alphabet="ab_|-=+.eE019 \t\né", max_size=60))
@example("0=-=0")
@example("a=e5=1")
@example("a=.=1 b=1.=2 c=1e=3")
def test_the_rule_is_katibs(line: str) -> None:
    assert parse_metrics(line) == katib(line)


@given(st.text(max_size=8), st.floats() | st.integers(-(10**9), 10**9))
@example("loss", math.inf)
@example("", 1)
def test_a_name_is_printable_if_its_printed_value_is_read_back(name: str, value: float) -> None:
    [read] = [each for each in parse_metrics(f"{name}={value!r}") if each[0] == name] or [None]
    assert (read is not None) == is_printable(name)
    assert read is None or read[1] == value or math.isnan(value)


@given(st.text(max_size=20), st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_what_stands_around_the_pairs_does_not_matter(noise: str, values: list[float]) -> None:
    noise = noise.replace("=", ":")
    line = "".join(f"{noise} m{n}={value!r}, " for n, value in enumerate(values))
    assert parse_metrics(line) == [(f"m{n}", value) for n, value in enumerate(values)]


@given(st.lists(st.floats(), min_size=1))
def test_a_summary_is_that_of_all_values(values: list[float]) -> None:
    summary = None
    for value in values:
        summary = summarise(summary, value)
    assert summary is not None
    numbers = [value for value in values if not math.isnan(value)] or [math.nan]
    for told, true in ((summary.min, min(numbers)), (summary.max, max(numbers)), (summary.latest, values[-1])):
        assert told == true or (math.isnan(told) and math.isnan(true))


@pytest.mark.parametrize("piece", ["a", "a ", "=", "a=", "a=1", " ", "a=1.", "1e", "-", "a=nan", "é"])
def test_hostile_lines_take_linear_time(piece: str) -> None:
    line = piece * (300_000 // len(piece)) + "=x"
    start = time.process_time()
    parse_metrics(line)
    # A quadratic scan of this line takes minutes.
    assert time.process_time() - start < 5


def test_report_lines_are_read() -> None:
    assert parse_report('{"k":"metric","t":1.5,"s":2,"m":{"loss":0.5,"x":"-inf"}}\n') == (
        "metric",
        2.0,
        {"loss": 0.5, "x": -math.inf},
    )
    assert parse_report('{"k":"progress","t":1,"p":50,"r":null,"msg":"half"}') == ("progress", 50.0, None, "half")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loss=3",
        '{"k":"metric","m":{"lo',
        '{"k":"metric"}',
        '{"k":"metric","m":{}}',
        '{"k":"metric","m":[1]}',
        '{"k":"metric","m":{"a":true}}',
        '{"k":"metric","m":{"a":"much"}}',
        '{"k":"metric","s":[],"m":{"a":1}}',
        '{"k":"metric","m":{"a":1' + "0" * 400 + "}}",
        '{"k":"metric","m":{"a":1' + "0" * 5000 + "}}",
        '{"k":"progress","p":"x"}',
        '{"k":"poem"}',
        "[1]",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda line: line[:30],
)
def test_torn_and_foreign_lines_are_no_reports(line: str) -> None:
    assert parse_report(line) is None


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_line_breaks_the_report_reader(line: str) -> None:
    parse_report(line)


@given(
    st.dictionaries(st.sampled_from(["k", "s", "m", "p", "r", "msg"]), st.sampled_from(["metric", "progress", 1, {}]))
)
def test_no_shape_breaks_the_report_reader(data: dict[str, object]) -> None:
    parse_report(json.dumps(data))
