"""Search spaces as hypothesis draws them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from kfasync.optimizer import Search
from kfasync.optimizer._parameter import ParameterSpec

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
POSITIVE = st.floats(1e-6, 1e6, allow_nan=False)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=4))


def _pairs(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(numbers, numbers).map(sorted).filter(lambda p: p[0] < p[1]).map(tuple)


def _key(value: object) -> object:
    return "nan" if isinstance(value, float) and math.isnan(value) else ("v", value)


CHOICES = st.lists(SCALARS, min_size=1, max_size=4, unique_by=_key).map(Search.choice)
INTS = st.tuples(st.integers(-20, 20), st.integers(1, 6), st.integers(1, 3)).map(
    lambda t: Search.int(t[0], t[0] + t[1] * t[2], t[2])
)
LOGINTS = st.tuples(st.integers(1, 20), st.integers(1, 6)).map(lambda t: Search.logint(t[0], t[0] + t[1]))
QUNIFORMS = st.tuples(FINITE, st.sampled_from([0.1, 0.25, 0.3, 2.0]), st.floats(1.01, 6)).map(
    lambda t: Search.quniform(t[0], t[0] + t[1] * t[2], t[1])
)
STEPPED = st.one_of(CHOICES, INTS, LOGINTS, QUNIFORMS)
CONTINUOUS = st.one_of(
    _pairs(FINITE).map(lambda p: Search.uniform(*p)),
    _pairs(POSITIVE).map(lambda p: Search.loguniform(*p)),
    st.tuples(FINITE, POSITIVE).map(lambda p: Search.normal(*p)),
    st.tuples(st.floats(-10, 10), st.floats(1e-3, 10)).map(lambda p: Search.lognormal(*p)),
)


@st.composite
def parameters(draw: st.DrawFn, specs: st.SearchStrategy[ParameterSpec]) -> dict[str, ParameterSpec]:
    """Up to four parameters, each of which may depend on some before it."""
    drawn: dict[str, ParameterSpec] = {}
    for name in draw(st.permutations("abcd"))[: draw(st.integers(1, 4))]:
        spec = draw(specs)
        stepped = [other for other in drawn if drawn[other].checked(other).grid() is not None]
        if stepped and draw(st.booleans()):
            other = draw(st.sampled_from(stepped))
            values = list(drawn[other].checked(other).grid() or ())
            spec = spec.when(other, draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)))
        drawn[name] = spec
    return drawn
