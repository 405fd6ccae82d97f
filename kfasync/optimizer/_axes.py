"""Where the values of a parameter or a metric lie on an axis of a figure, and what stands there. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec
from kfasync.optimizer._ranges import Distribution, LogNormalSearchSpace
from kfasync.optimizer._wording import shown, visible

__all__ = ["Axis", "label"]

# Characters of a name, and of a value beside an axis.
_LONGEST, _SHORT = 40, 16
# Labelled values of an axis of numbers.
_TICKS = 5


def label(text: object, longest: int = _LONGEST) -> str:
    """A text that plotly draws as it is: it takes some tags, entities and, where MathJax is loaded, dollar signs.

    Example:
        >>> label("<b>$x$")
        '&lt;b&gt;&#36;x&#36;'
    """
    return html.escape(visible(shown(text), longest), quote=False).replace("$", "&#36;")


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        name: What is on it.
        log: Whether magnitudes are spread evenly.
        spec: Of a parameter of choices: each has its place, the first one at 0.
    """

    name: str
    log: bool = False
    spec: CategoricalSearchSpace | None = None

    @classmethod
    def of(cls, name: str, spec: ParameterSpec) -> Axis:
        """The axis of a parameter."""
        if isinstance(spec, CategoricalSearchSpace):
            return cls(name, spec=spec)
        log = isinstance(spec, LogNormalSearchSpace) or getattr(spec, "distribution", "") == Distribution.LOG_UNIFORM
        return cls(name, log)

    def at(self, value: Any) -> float | None:
        """The place of a value."""
        return self.spec.index(value) if self.spec is not None else float(value)

    def cartesian(self, places: Sequence[float | None]) -> dict[str, Any]:
        """Settings of an axis of plotly's own kind.

        Args:
            places: What will be drawn, as `at` gave it.
        """
        found: dict[str, Any] = {"title": {"text": label(self.name)}}
        if self.spec is not None:
            places = list(range(len(self.spec.choices)))
            return found | {
                "tickvals": places,
                "ticktext": [label(choice, _SHORT) for choice in self.spec.choices],
                "range": [-0.5, len(places) - 0.5],
            }
        if not self.log:
            return found
        there = [math.log10(place) for place in places if place is not None]
        # Over many magnitudes the digits between them are too much.
        wide = max(there, default=0.0) - min(there, default=0.0) >= 2
        return found | {"type": "log", "exponentformat": "power"} | ({"dtick": 1} if wide else {})

    def parallel(self, places: Sequence[float | None]) -> dict[str, Any]:
        """Settings of one of parallel axes, which know neither logarithms nor missing values.

        Args:
            places: For each line what `at` gave; None, where it has no value, is a place of its own below the others.
        """
        places = [math.log10(place) if self.log and place is not None else place for place in places]
        there = [place for place in places if place is not None]
        low, high = min(there, default=0.0), max(there, default=0.0)
        if self.spec is not None:
            low, high = 0.0, len(self.spec.choices) - 1.0
        ticks = self._ticks(low, high)
        if len(there) < len(places):
            low -= (high - low or 1.0) / 4
            ticks.append((low, "(none)"))
        return {
            "label": label(self.name),
            "values": [low if place is None else place for place in places],
            "range": [low, high] if low < high else [low - 0.5, high + 0.5],
            "tickvals": [place for place, _ in ticks],
            "ticktext": [text for _, text in ticks],
        }

    def _ticks(self, low: float, high: float) -> list[tuple[float, str]]:
        # Not `label`: what stands beside parallel axes is drawn as it is.
        if self.spec is not None:
            return [(float(place), visible(shown(choice), _SHORT)) for place, choice in enumerate(self.spec.choices)]
        decades = range(math.ceil(low), math.floor(high) + 1) if self.log else range(0)
        if 2 <= len(decades) <= 2 * _TICKS:
            return [(float(decade), shown(10.0**decade)) for decade in decades]
        places = [low + (high - low) * step / (_TICKS - 1) for step in range(_TICKS)] if low < high else [low]
        return [(place, f"{10**place if self.log else place:.3g}") for place in places]
