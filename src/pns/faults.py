"""What pydantic finds wrong with a value, in words of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MUST = {
    "tuple_type": "must be a list", "dict_type": "must hold keys", "model_type": "must hold keys",
    "model_attributes_type": "must hold keys", "path_type": "must be a path", "string_type": "must be text",
    "string_too_short": "must not be empty", "int_type": "must be a whole number", "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number", "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number", "float_parsing": "must be a number", "finite_number": "must be a finite number",
    "bool_type": "must be true or false", "bool_parsing": "must be true or false", "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}", "less_than": "must be below {lt}", "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}", "too_short": "must not be empty", "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "must be letters, digits, `.`, `_` and `-`, the first of them a letter or a digit",
}  # fmt: skip
"""Kinds of fault -> what a value must be, in words that are not pydantic's. `name` alone has a pattern; lists have at least one item."""


def said(fault: ErrorDetails) -> str:
    """What a value must be, or what a rule of ours says."""
    words = MUST.get(fault["type"])
    return fault["msg"].removeprefix("Value error, ") if words is None else words.format(**fault.get("ctx", {}))
