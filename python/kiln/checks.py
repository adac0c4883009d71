"""Arguments of the public functions: what each may be, and one text for all that are wrong."""

from __future__ import annotations

import enum
import numbers
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple

__all__ = [
    "BOOL",
    "CALLABLE",
    "MAPPING",
    "NAMES",
    "PATH",
    "SECONDS",
    "TEXT",
    "Rule",
    "anything",
    "check",
    "check_all",
    "count",
    "instance",
    "one_of",
    "optional",
    "shape",
]


class Rule(NamedTuple):
    """``holds(value)``, and in words what holds; ``kinds`` are types whose values are of the right type, if maybe wrong."""

    holds: Callable[[Any], bool]
    words: str
    kinds: tuple[type, ...] = ()


def check(where: str, name: str, value: Any, rule: Rule) -> None:
    """Raises TypeError or ValueError "where: name must be ..., got ..." unless the rule holds."""
    try:
        if rule.holds(value):
            return
    except (TypeError, ValueError, AttributeError):
        pass
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    kind = ValueError if isinstance(value, rule.kinds) and not isinstance(value, bool) else TypeError
    raise kind(f"{where}: {name} must be {rule.words}, got {shown} ({type(value).__name__})")


def check_all(where: str, values: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    for name, rule in rules.items():
        if name in values:
            check(where, name, values[name], rule)


def _is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)  # NumPy's, too


def count(low: int = 0, high: int = 1 << 62) -> Rule:
    words = f"a whole number of {low} or more" if high == 1 << 62 else f"a whole number from {low} to {high}"
    return Rule(lambda value: _is_int(value) and low <= value <= high, words, (int,))


def optional(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.words} or None", rule.kinds)


def instance(kind: Any, words: str) -> Rule:
    return Rule(lambda value: isinstance(value, kind), words)


def one_of(*choices: Any) -> Rule:
    """One of these values; an enumeration stands for its members."""
    flat = [member for choice in choices for member in (choice if isinstance(choice, type) else [choice])]
    names = [f"{type(m).__name__}.{m.name}" if isinstance(m, enum.Enum) else repr(m) for m in flat]
    return Rule(
        lambda value: any(value is m or (type(value) is type(m) and value == m) for m in flat),
        f"one of {', '.join(names)}",
        tuple({type(m) for m in flat}),
    )


def anything(words: str = "anything") -> Rule:
    return Rule(lambda value: True, words)


def _is_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(isinstance(item, str) for item in value)


BOOL = Rule(lambda value: isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"), "True or False")
TEXT = instance(str, "a text")
PATH = instance((str, os.PathLike), "a path")
NAMES = Rule(_is_names, "a list of texts", (list, tuple))
SECONDS = Rule(
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9,
    "a number of seconds, 0 or more",
    (int, float),
)
CALLABLE = Rule(callable, "callable")
MAPPING = instance(Mapping, "a dictionary")


def shape(wild: bool = False) -> Rule:
    """Sizes; with ``wild``, -1 is one of them."""
    return Rule(
        lambda value: isinstance(value, (list, tuple)) and all(_is_int(n) and n >= (-1 if wild else 0) for n in value),
        "a list or tuple of sizes, each 0 or more" + (" (-1: as shape_ranges says)" if wild else ""),
        (list, tuple),
    )


def collection_of(rule: Rule, words: str) -> Rule:
    """A set, list or tuple of what the rule holds for."""
    return Rule(
        lambda value: (
            isinstance(value, (Collection, Iterable))
            and not isinstance(value, (str, bytes, Mapping))
            and all(map(rule.holds, value))
        ),
        words,
        (list, tuple, set, frozenset),
    )
