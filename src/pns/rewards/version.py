"""Version of the rule-based terms: part of every fingerprint that rests on them. Raised when a score may change."""

RULES = 3
"""Format checks and the step checker."""
