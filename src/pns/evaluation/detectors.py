"""Detectors: can something simple tell rejected responses from chosen ones? (Source: ours, after method.md.)

A detector learns on the pairs of some problems and scores both sides of the pairs of the others, so no problem is on
both sides. A higher score means "more like a chosen one". The scores of a fold are standardised before the folds are put
together: each fold has a model of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pns.evaluation.preferences import Preference

Floats = NDArray[np.float64]
Scorer = Callable[[Sequence[str], Sequence[str]], Floats]
"""(prompts, responses) -> scores."""
Fit = Callable[[Sequence[str], Sequence[str], NDArray[np.int64], int], Scorer]
"""(prompts, responses, labels, seed) -> a fitted detector; label 1 is chosen."""

FOLDS = 5
FEATURES = 200_000


def cross_validated(
    pairs: Sequence[Preference], fit: Fit, *, folds: int = FOLDS, seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Out-of-fold scores of the chosen and of the rejected side of each pair, (N,) each.

    Args:
        folds: parts of the problems; at most as many as there are problems, of which there must be 2 or more.
        progress: told (folds done, folds), before the first one, too.
    """
    problems = sorted({pair.prompt for pair in pairs})
    random.Random(seed).shuffle(problems)
    folds = min(folds, len(problems))
    fold_of = {problem: i % folds for i, problem in enumerate(problems)}
    chosen, rejected = np.zeros(len(pairs)), np.zeros(len(pairs))
    progress(0, folds)
    for fold in range(folds):
        held = [i for i, pair in enumerate(pairs) if fold_of[pair.prompt] == fold]
        prompts, texts, labels = _sides(pair for pair in pairs if fold_of[pair.prompt] != fold)
        score = fit(prompts, texts, labels, seed)
        given = [pairs[i].prompt for i in held]
        both = np.concatenate(
            [score(given, [pairs[i].chosen for i in held]), score(given, [pairs[i].rejected for i in held])]
        )
        spread = both.std()
        both = (both - both.mean()) / (spread if spread > 0 else 1.0)
        chosen[held], rejected[held] = both[: len(held)], both[len(held) :]
        progress(fold + 1, folds)
    return chosen, rejected


def _sides(pairs: object) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Distinct texts to learn from; one that is on both sides teaches nothing, and stays on both."""
    rows = dict.fromkeys(
        row
        for pair in pairs  # type: ignore[attr-defined]
        for row in ((pair.prompt, pair.chosen, 1), (pair.prompt, pair.rejected, 0))
    )
    prompts, texts, labels = zip(*rows, strict=True)
    return list(prompts), list(texts), np.array(labels)


def fit_length(prompts: Sequence[str], texts: Sequence[str], labels: NDArray[np.int64], seed: int) -> Scorer:
    """Logistic regression on log characters, words and lines, with their squares: both too long and too short tell."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    model = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=2000))
    model.fit(_lengths(texts), labels)
    return lambda _, given: np.asarray(model.decision_function(_lengths(given)))


def _lengths(texts: Sequence[str]) -> Floats:
    return np.log1p([[len(t), len(t.split()), t.count("\n")] for t in texts])


def fit_ngrams(prompts: Sequence[str], texts: Sequence[str], labels: NDArray[np.int64], seed: int) -> Scorer:
    """Logistic regression on the tf-idf of runs of one to three words, numbers and signs of the response."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        token_pattern=r"\d+|[^\W\d_]+|[^\w\s]", ngram_range=(1, 3), sublinear_tf=True, max_features=FEATURES
    )
    model = make_pipeline(words, LogisticRegression(C=10, solver="liblinear", random_state=seed))
    model.fit(texts, labels)
    return lambda _, given: np.asarray(model.decision_function(given))
