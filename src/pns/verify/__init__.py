"""Final answers: extraction, equivalence with three outcomes, and the killable pool for algebra. No torch."""

from __future__ import annotations

from pns.verify.check import check
from pns.verify.extract import Extraction, extract
from pns.verify.pool import CheckPool
from pns.verify.verifier import Verifier

__all__ = ["CheckPool", "Extraction", "Verifier", "check", "extract"]
