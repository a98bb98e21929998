"""Single responses of many callers in batches of one composite."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pns.recipe import RewardPart
from pns.records import Problem, Scores
from pns.rewards import Composite
from pns.rewards.adapters.batching import Batcher, Row
from pns.verify import Verifier

P = Problem(id="a", problem="Mia has 12 apples. Mia finds 5 apples. Mia gives 3 to Tom. How many now?", answer="14")


def text(n: int) -> str:
    return f"Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{{{n}}}"


class Noting(Composite):
    """A composite that notes the batches it is given, and can be held up or broken."""

    def __init__(self) -> None:
        super().__init__(RewardPart(), Verifier())
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: BaseException | None = None

    def __call__(self, problems: Sequence[Problem], texts: Sequence[str], finishes: Sequence[Any]) -> list[Scores]:
        self.batches.append(len(texts))
        self.entered.release()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return super().__call__(problems, texts, finishes)


@pytest.fixture
def composite() -> Noting:
    return Noting()


def test_callers_get_their_own_scores_in_few_batches(composite: Noting) -> None:
    batcher = Batcher(composite, max_batch=64, threads=2)
    with ThreadPoolExecutor(32) as pool:
        scores = list(pool.map(lambda n: batcher.score([Row(P, text(n))])[0], range(200)))
    batcher.close()
    assert [s.verdict.answer if s.verdict else None for s in scores] == [str(n) for n in range(200)]
    assert sum(composite.batches) == 200
    assert max(composite.batches) <= 64
    assert len(composite.batches) < 100


def test_a_full_batch_does_not_wait_and_the_rest_follows(composite: Noting) -> None:
    batcher = Batcher(composite, max_batch=8, threads=1)
    assert len(batcher.score([Row(P, text(n)) for n in range(20)])) == 20
    batcher.close()
    assert composite.batches[:2] == [8, 8]


def test_a_batch_that_hangs_holds_up_no_other(composite: Noting) -> None:
    batcher = Batcher(composite, threads=2)
    composite.gate.clear()
    stuck = batcher.submit(Row(P, text(1)))
    assert composite.entered.acquire(timeout=30)
    second = batcher.submit(Row(P, text(2)))
    assert composite.entered.acquire(timeout=30)  # it went in though the first is not out
    composite.gate.set()
    assert [f.result(30).gate for f in (stuck, second)] == ["scored", "scored"]
    batcher.close()


def test_it_works_from_event_loops(composite: Noting) -> None:
    batcher = Batcher(composite)

    async def one(n: int) -> Scores:
        return await asyncio.wrap_future(batcher.submit(Row(P, text(n))))

    async def many() -> list[Scores]:
        return await asyncio.gather(*(one(n) for n in range(40)))

    for _ in range(2):  # two loops, one after the other
        assert [s.verdict.answer if s.verdict else None for s in asyncio.run(many())] == [str(n) for n in range(40)]
    batcher.close()


def test_an_error_reaches_those_who_wait_and_the_threads_live_on(composite: Noting) -> None:
    batcher = Batcher(composite, threads=1)
    composite.error = KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):
        batcher.score([Row(P, text(1))])
    composite.error = None
    assert batcher.score([Row(P, text(1))])[0].gate == "scored"
    batcher.close()


def test_close_finishes_what_was_submitted_and_is_final(composite: Noting) -> None:
    batcher = Batcher(composite, max_batch=1, threads=2)
    futures = [batcher.submit(Row(P, text(n))) for n in range(10)]
    batcher.close()
    assert [f.result(0).gate for f in futures] == ["scored"] * 10
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(Row(P, text(1)))
    batcher.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("pns-reward-")]
    with pytest.raises(ValueError, match="closed"):
        composite.verifier.check([r"\sqrt{2}"], ["2^{1/2}"])


def test_what_nobody_waits_for_any_more_is_left_out(composite: Noting) -> None:
    batcher = Batcher(composite, threads=1, max_batch=1)
    composite.gate.clear()
    first = batcher.submit(Row(P, text(1)))
    assert composite.entered.acquire(timeout=30)
    given_up, last = batcher.submit(Row(P, text(2))), batcher.submit(Row(P, text(3)))
    assert given_up.cancel()
    composite.gate.set()
    assert first.result(30).gate == last.result(30).gate == "scored"
    batcher.close()
    assert composite.batches == [1, 1]
