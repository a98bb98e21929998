"""Plausible negative samples: write wrong answers that teach, train on them, and measure what they teach."""

__version__ = "0.1.0"
__all__ = ["__version__"]
