"""The verifier's version: part of every fingerprint that rests on verdicts. Raised when a verdict may change."""

VERIFIER = 3
