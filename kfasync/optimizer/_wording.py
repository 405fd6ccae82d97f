"""How values look to a person. Names and messages come from training code: any text may be in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["lasting", "shown", "shown_all", "visible"]

#: Characters of a text that somebody still reads in a table.
_LONGEST = 200


def visible(text: str, longest: int = _LONGEST) -> str:
    r"""The text on one line, with what a terminal or a page would obey (escapes, line ends, directions) written out.

    Args:
        text: Any text.
        longest: Characters; a longer text is cut and ends with an ellipsis.

    Example:
        >>> visible("loss\n\x1b[31m")
        'loss\\n\\x1b[31m'
    """
    plain = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: longest + 1])
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def shown(value: object) -> str:
    """A value as text, floats to six digits.

    Example:
        >>> shown(0.30000000000000004), shown(64), shown(None)
        ('0.3', '64', 'None')
    """
    return f"{value:.6g}" if isinstance(value, float) else visible(str(value))


def shown_all(values: Mapping[str, object]) -> str:
    """Names and values on one line.

    Example:
        >>> shown_all({"lr": 0.1, "kind": "adam"})
        'lr=0.1, kind=adam'
    """
    return ", ".join(f"{visible(name)}={shown(value)}" for name, value in values.items())


def lasting(seconds: float) -> str:
    """A span of time: seconds while there are few, then minutes and hours too.

    Example:
        >>> lasting(0.25), lasting(42), lasting(62), lasting(3723)
        ('0.25 s', '42 s', '1:02', '1:02:03')
    """
    if seconds < 59.5:
        return f"{max(seconds, 0.0):.3g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
