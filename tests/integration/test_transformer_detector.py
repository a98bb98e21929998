"""The small transformer among the detectors: what it asks of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pns.evaluation import transformer_detector
from pns.evaluation.transformer_detector import fit_transformer

PROMPTS = [f"Problem {i}: how many?" for i in range(12)]
TEXTS = [f"{i} + {i} = {2 * i}" if i % 2 else f"perhaps {i}" for i in range(12)]
LABELS = np.array([i % 2 for i in range(12)])


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """The numbers of threads on which the model has computed. Trainings are short, and torch has two threads elsewhere."""
    found: set[int] = set()
    forward = transformer_detector._Classifier.forward

    def noted(self: Any, **inputs: Any) -> Any:
        found.add(torch.get_num_threads())
        return forward(self, **inputs)

    monkeypatch.setattr(transformer_detector._Classifier, "forward", noted)
    monkeypatch.setattr(transformer_detector, "FEWEST_STEPS", 10)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield found
    torch.set_num_threads(before)


def test_one_thread_while_it_learns_and_scores_and_as_many_as_before_afterwards(used: set[int]) -> None:
    score = fit_transformer(PROMPTS, TEXTS, LABELS, 0)
    assert (used, torch.get_num_threads()) == ({1}, 2)
    used.clear()
    given = score(PROMPTS, TEXTS)
    assert (used, torch.get_num_threads()) == ({1}, 2)
    torch.set_num_threads(1)
    assert np.array_equal(fit_transformer(PROMPTS, TEXTS, LABELS, 0)(PROMPTS, TEXTS), given), "whatever torch has"


def test_another_number_of_threads_changes_scores_by_rounding_alone(
    used: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fit_transformer(PROMPTS, TEXTS, LABELS, 0)(PROMPTS, TEXTS)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    two = fit_transformer(PROMPTS, TEXTS, LABELS, 0)(PROMPTS, TEXTS)
    assert used == {1, 2}
    assert two == pytest.approx(one, abs=1e-4)
