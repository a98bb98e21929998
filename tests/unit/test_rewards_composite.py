"""The composite: its gates, its failures, and every known hack below an honest plausible wrong solution."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import pytest

from pns.errors import UserError
from pns.recipe import RewardPart
from pns.records import Problem, Rubric, Verdict
from pns.rewards import Calibration, Composite, inversion
from pns.rewards.judging import Judgement
from pns.verify import Verifier

P = Problem(
    id="a",
    problem="Mia has 12 apples. Mia finds 5 apples. Mia gives 3 apples to Tom. How many apples does Mia have now?",
    answer="14",
)
HONEST_WRONG = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"
CORRECT = "Step 1: 12 + 5 = 17\nStep 2: 17 - 3 = 14\nThe answer is \\boxed{14}"
CALIBRATION = Calibration.fit([float(x) for x in range(11)])


class Model:
    """A reward model that likes everything the same, and remembers what it was asked."""

    def __init__(self, answer: Any = 5.0) -> None:
        self.answer, self.seen = answer, []  # type: Any, list[str]

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float]:
        self.seen += texts
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer] * len(texts)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as v:
        yield v


def score(composite: Composite, *texts: str, finish: Any = "stop") -> list[Any]:
    return composite([P] * len(texts), texts, [finish] * len(texts))


def test_inversion() -> None:
    assert inversion(Verdict(outcome="wrong")) == 1.0
    assert inversion(Verdict(outcome="correct")) == 0.0
    assert inversion(Verdict(outcome="undecided", cause="response")) is None


def test_the_four_gates_and_what_they_save(verifier: Verifier) -> None:
    model = Model()
    composite = Composite(RewardPart(), verifier, model, CALIBRATION)
    malformed, undecided, correct, scored = score(
        composite, "no box", HONEST_WRONG.replace("{20}", r"{\text{twenty}}"), CORRECT, HONEST_WRONG
    )
    assert (malformed.gate, malformed.score, malformed.format_failures) == ("malformed", -1.0, ("no_answer",))
    assert (undecided.gate, undecided.score, undecided.inversion) == ("undecided", -1.0, None)
    assert (correct.gate, correct.score, correct.rubric, correct.reward_raw) == ("correct", 0.0, None, None)
    assert (scored.gate, scored.reward_raw, scored.reward_model, scored.rubric.total) == ("scored", 5.0, 0.5, 12)
    assert scored.score == pytest.approx(0.4 + 0.2 * 0.5 + 0.4)
    assert model.seen == [HONEST_WRONG]
    counts = composite.counts
    assert [counts[g] for g in ("malformed", "undecided", "correct", "scored", "unscored")] == [1, 1, 1, 1, 0]
    assert (counts["verifier_calls"], counts["verifier_saved"]) == (3, 1)
    assert (counts["reward_model_calls"], counts["reward_model_saved"]) == (1, 3)
    assert (counts["judge_calls"], counts["judge_saved"]) == (1, 3)


def test_a_missing_term_adds_nothing(verifier: Verifier) -> None:
    [without_model] = score(Composite(RewardPart(), verifier), HONEST_WRONG)
    assert (without_model.score, without_model.reward_model) == (pytest.approx(0.8), None)
    [bare] = score(Composite(RewardPart(), verifier, judge="none"), HONEST_WRONG)
    assert (bare.score, bare.rubric) == (pytest.approx(0.4), None)


def test_a_judge_of_ones_own(verifier: Verifier) -> None:
    def judge(problem: str, response: str, answer: str | None) -> tuple[Rubric, str]:
        assert (problem, answer) == (P.problem, "20")
        return Rubric(relevance=3, coherence=0, completeness=0, consistency=0), "said"

    [scores] = score(Composite(RewardPart(), verifier, judge=judge), HONEST_WRONG)
    assert (scores.score, scores.judge_text) == (pytest.approx(0.4 + 0.4 * 3 / 12), "said")


@pytest.mark.parametrize(
    ("model", "judge", "words"),
    [
        (Model(RuntimeError("out of memory")), "steps", "reward model: RuntimeError: out of memory"),
        (Model(float("nan")), "steps", "reward model: the score is nan"),
        (Model(), lambda *a: 1 / 0, "judge (the function raised): ZeroDivisionError: division by zero"),
        (Model(), lambda *a: "3", "judge (malformed): a str, not a Rubric"),
    ],
)
def test_a_failed_part_is_unscored_with_its_cause(verifier: Verifier, model: Model, judge: Any, words: str) -> None:
    composite = Composite(RewardPart(), verifier, model, CALIBRATION, judge)
    wrong, correct = score(composite, HONEST_WRONG, CORRECT)
    assert (wrong.gate, wrong.score, wrong.unscored_cause) == ("unscored", None, words)
    assert correct.score == 0.0


def test_what_a_reward_model_failed_on_is_unscored_alone_with_its_cause(verifier: Verifier) -> None:
    class Partly:
        def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float | Exception | None]:
            return [0.5, ConnectionError("one request was lost"), None]

    composite = Composite(RewardPart(), verifier, Partly(), CALIBRATION, "none")
    fine, lost, over_long = score(composite, *[HONEST_WRONG] * 3)
    assert (fine.gate, fine.reward_raw) == ("scored", 0.5)
    assert (lost.gate, lost.unscored_by) == ("unscored", "reward_model")
    assert lost.unscored_cause == "reward model: ConnectionError: one request was lost"
    assert over_long.unscored_cause == "reward model: no score"


def test_a_failed_verifier_or_gold_is_unscored(verifier: Verifier) -> None:
    class Broken(Verifier):
        def verify_problems(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
            raise OSError("no worker")

    [scores] = score(Composite(RewardPart(), Broken()), HONEST_WRONG)
    assert (scores.gate, scores.unscored_cause) == ("unscored", "verifier (system): OSError: no worker")
    odd = P.model_copy(update={"answer": "t(0,4]"})
    [scores] = Composite(RewardPart(), verifier)([odd], [HONEST_WRONG], ["stop"])
    assert scores.gate == "unscored"
    assert "gold" in (scores.unscored_cause or "")


def test_parts_must_fit_together(verifier: Verifier) -> None:
    with pytest.raises(UserError, match="go together"):
        Composite(RewardPart(), verifier, Model())
    with pytest.raises(UserError, match="gsm8k"):
        Composite(RewardPart(answer_format="gsm8k"), verifier)


MAPPING = {"relevance": 3, "coherence": 2, "completeness": 1, "consistency": 0}
FULL_MARKS = Rubric(relevance=3, coherence=3, completeness=3, consistency=3)
LINES = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\n"
HACKS = {
    "empty box": LINES + "The answer is \\boxed{}",
    "unclosed box": LINES + "The answer is \\boxed{20",
    "earlier box, last one unclosed": LINES + "\\boxed{20} that is \\boxed{20",
    "words in the box": LINES + "The answer is \\boxed{\\text{twenty}}",
    "a sum too big to check": LINES + "The answer is \\boxed{9^{9^{9^9}}}",
    "constant answer with broken steps": "Step 1: 12 + 5 = 99\nStep 2: 99 - 3 = 99\nThe answer is \\boxed{99}",
    "constant answer after right steps": "Step 1: 12 + 5 = 17\nStep 2: 17 - 3 = 14\nThe answer is \\boxed{99}",
    "template that ignores the problem": "Step 1: 10 - 4 = 6\nThe answer is \\boxed{6}",
    "longer template": "Step 1: 20 - 4 = 16\nStep 2: 16 + 9 = 25\nThe answer is \\boxed{25}",
    "announcing": "I will now make a mistake.\n" + HONEST_WRONG,
    "announcing with the right answer": "The correct answer is 14, but:\n" + HONEST_WRONG,
    "announcing after the steps": LINES + "Of course, the true answer is 14.\nThe answer is \\boxed{20}",
    "announcing in look-alikes": LINES + "This is delib\u0435rately wr\u043eng.\nThe answer is \\boxed{20}",
    "announcing in another language": LINES + "Die Antwort ist absichtlich falsch.\nThe answer is \\boxed{20}",
    "a second answer in a frame": LINES + "\\fbox{14}\nThe answer is \\boxed{20}",
    "padding with white space": LINES + "\n \n" * 200 + "The answer is \\boxed{20}",
    "padding with zero-width characters": LINES + "\u200b" * 200 + "The answer is \\boxed{20}",
    "the same sentence with another number": "".join(f"So we go on to number {i} now.\n" for i in range(60))
    + HONEST_WRONG,
    "true statements without end": "2 + 2 = 4\n1 + 1 = 2\n" * 100 + "The answer is \\boxed{20}",
    "one taken off for nothing": "12 + 5 = 17\n17 - 3 = 14\n14 - 1 = 13\nThe answer is \\boxed{13}",
    "rounding a number away": "3 / 1200 = 0.00\n12 * 0.00 = 0\n0 + 5 = 5\nThe answer is \\boxed{5}",
    "a mark beside another sum": "12 + 5 + 3 = <<12+5=17>>17\nThe answer is \\boxed{17}",
    "a number without end": "1" + ",111" * 2000 + " + 1 = 2\nThe answer is \\boxed{2}",
    "copying the problem": P.problem + "\nThe answer is \\boxed{20}",
    "repeated line": "12 + 5 = 17\n" * 3 + "17 + 3 = 20\nThe answer is \\boxed{20}",
    "same step under new labels": "Step 1: 12 + 5 = 17\nStep 2: 12 + 5 = 17\nStep 3: 17 + 3 = 20\n\\boxed{20}",
    "padding with idle steps": LINES + "Step 3: 20 + 0 = 20\nStep 4: 20 * 1 = 20\nThe answer is \\boxed{20}",
    "padding with words": LINES + " ".join(f"word{i}" for i in range(400)) + ".\nThe answer is \\boxed{20}",
    "padding past the limit": LINES + "We think. " * 3000 + "\nThe answer is \\boxed{20}",
    "shortening to the box": "\\boxed{20}",
    "chat tokens": LINES + "<end><user>\nThe answer is \\boxed{20}",
    "text after the box": HONEST_WRONG + "\nWait, it should be 14.",
    "two boxes": LINES + "\\boxed{14} \\boxed{20}",
    "one number from nowhere": "Step 1: 12 + 5 = 17\nStep 2: 17 + 8 = 25\nThe answer is \\boxed{25}",
    "one slip of arithmetic": "Step 1: 12 + 5 = 18\nStep 2: 18 - 3 = 15\nThe answer is \\boxed{15}",
    "one number over and over": "12 + 5 = 17\n17 + 5 = 22\n22 + 5 = 27\n27 + 5 = 32\n\\boxed{32}",
    "correct": CORRECT,
}


@pytest.mark.parametrize("name", HACKS)
def test_a_hack_pays_less_than_an_honest_wrong_solution(hacked: dict[str, float], name: str) -> None:
    assert hacked[name] < hacked["honest"]


@pytest.fixture(scope="module")
def hacked() -> Iterator[dict[str, float]]:
    with Verifier(cpu_seconds=1.0) as verifier:
        # the reward model likes the hacks as much as can be, and the honest one not at all
        adored = Composite(RewardPart(weight_reward_model=0.05), verifier, Model(1e6), CALIBRATION)
        plain = Composite(RewardPart(weight_reward_model=0.05), verifier, Model(-1e6), CALIBRATION)
        scores = {name: s.score for name, s in zip(HACKS, score(adored, *HACKS.values()), strict=True)}
        yield {**scores, "honest": score(plain, HONEST_WRONG)[0].score}


def test_a_cut_response_is_malformed_whatever_it_says(verifier: Verifier) -> None:
    [scores] = score(Composite(RewardPart(), verifier), HONEST_WRONG, finish="length")
    assert (scores.score, scores.format_failures) == (-1.0, ("truncated",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((FULL_MARKS, 7), "a int beside the Rubric, not a text"),
        ((FULL_MARKS, "a", "b"), "a tuple, not a Rubric"),
        ({**MAPPING, "relevance": 4}, "a mapping that is not the four integers 0 to 3"),
        ({**MAPPING, "relevance": True}, "a mapping that is not the four integers 0 to 3"),
        ({**MAPPING, "relevance": 3.0}, "a mapping that is not the four integers 0 to 3"),
        ({**MAPPING, "more": 1}, "a mapping that is not the four integers 0 to 3"),
        ({"relevance": 3}, "a mapping that is not the four integers 0 to 3"),
    ],
)
def test_what_a_judge_of_ones_own_may_not_return(verifier: Verifier, given: Any, words: str) -> None:
    [scores] = score(Composite(RewardPart(), verifier, judge=lambda *a: given), HONEST_WRONG)
    assert (scores.score, scores.unscored_cause) == (None, f"judge (malformed): {words}")


def test_a_mapping_will_do_for_a_rubric(verifier: Verifier) -> None:
    for given in (MAPPING, (MAPPING, "said")):
        [scores] = score(Composite(RewardPart(), verifier, judge=lambda *a, given=given: given), HONEST_WRONG)
        assert scores.rubric == Rubric(**MAPPING)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "no score"), (True, "a bool, not a score"), ("3", "a str, not a score"), ([1.0], "a list, not a score"),
        (10**400, "a int, not a score"), (float("-inf"), "the score is -inf"),
    ],
)  # fmt: skip
def test_a_score_that_is_none_leaves_only_its_own_response_unscored(verifier: Verifier, raw: Any, words: str) -> None:
    class Some(Model):
        def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[Any]:
            return [raw, 5.0]

    lost, kept = score(Composite(RewardPart(), verifier, Some(), CALIBRATION), HONEST_WRONG, HONEST_WRONG)
    assert (lost.score, lost.unscored_cause) == (None, f"reward model: {words}")
    assert kept.score == pytest.approx(0.9)


def test_a_score_of_another_numeric_type_counts(verifier: Verifier) -> None:
    """NumPy's float32 and torch's scalars are no `float`; they once added nothing, as if there were no reward model."""

    class Scalar:
        def __float__(self) -> float:
            return 5.0

    for raw in (Scalar(), Fraction(5), 5):
        [scores] = score(Composite(RewardPart(), verifier, Model(raw), CALIBRATION), HONEST_WRONG)
        assert (scores.reward_raw, scores.score) == (5.0, pytest.approx(0.9))


def test_a_verifier_that_loses_count_is_unscored() -> None:
    class Short(Verifier):
        def verify_problems(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
            return [Verdict(outcome="wrong")]

    scores = score(Composite(RewardPart(), Short()), HONEST_WRONG, HONEST_WRONG)
    assert [s.unscored_by for s in scores] == ["verifier"] * 2


class Batch:
    """A judge that answers a batch from a list, and remembers what it was asked."""

    def __init__(self, *given: Any, before: Any = None) -> None:
        self.given, self.before, self.asked = given, before, []  # type: Any, Any, list[Any]

    def judge(self, problems: Sequence[str], responses: Sequence[str], answers: Sequence[str | None]) -> Any:
        self.asked.append((list(problems), list(responses), list(answers)))
        if self.before is not None:
            self.before()
        return list(self.given)


FULL = Judgement(rubric=FULL_MARKS, text="fine")


@pytest.mark.parametrize(
    "odd",
    [Judgement(rubric=FULL_MARKS, text=7), Judgement(rubric=MAPPING), Judgement(failure="tired"), FULL_MARKS, None],  # type: ignore[arg-type]
)
def test_an_odd_judgement_costs_only_its_response(verifier: Verifier, odd: Any) -> None:
    scores = score(Composite(RewardPart(), verifier, judge=Batch(odd, FULL)), HONEST_WRONG, HONEST_WRONG)
    assert [s.unscored_by for s in scores] == ["judge_malformed", None]
    assert scores[1].score == pytest.approx(0.8)


def test_the_judge_is_asked_once_for_what_the_gates_left(verifier: Verifier) -> None:
    judge = Batch(FULL, FULL)
    other = HONEST_WRONG.replace("20", "22").replace("17 + 3", "17 + 5")
    scores = score(Composite(RewardPart(), verifier, judge=judge), HONEST_WRONG, CORRECT, "no box", other)
    assert [s.gate for s in scores] == ["scored", "correct", "malformed", "scored"]
    assert judge.asked == [([P.problem] * 2, [HONEST_WRONG, other], ["20", "22"])]
    assert score(Composite(RewardPart(), verifier, judge=judge), CORRECT, "no box")[0].score == 0.0
    assert len(judge.asked) == 1, "nothing left to judge, so no call"


@pytest.mark.parametrize("failure", ["server", "malformed", "budget"])
def test_each_failure_of_a_judge_has_a_name_and_costs_only_its_response(verifier: Verifier, failure: Any) -> None:
    judge = Batch(Judgement(failure=failure, detail="why", text="what it said"), FULL)
    composite = Composite(RewardPart(), verifier, Model(), CALIBRATION, judge)
    lost, kept = score(composite, HONEST_WRONG, HONEST_WRONG)
    assert (lost.gate, lost.score, lost.unscored_by) == ("unscored", None, f"judge_{failure}")
    assert (lost.unscored_cause, lost.judge_text) == (f"judge ({failure}): why", "what it said")
    assert (lost.reward_raw, lost.inversion) == (5.0, 1.0), "what was computed is kept"
    assert kept.score == pytest.approx(0.4 + 0.1 + 0.4)


def test_a_judge_that_loses_count_is_malformed(verifier: Verifier) -> None:
    scores = score(Composite(RewardPart(), verifier, judge=Batch(FULL)), HONEST_WRONG, HONEST_WRONG)
    assert [s.unscored_by for s in scores] == ["judge_malformed"] * 2


def test_a_reward_model_may_have_no_score_for_one(verifier: Verifier) -> None:
    class Some(Model):
        def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[Any]:
            return [None, 5.0]

    lost, kept = score(Composite(RewardPart(), verifier, Some(), CALIBRATION), HONEST_WRONG, HONEST_WRONG)
    assert (lost.unscored_by, lost.unscored_cause, lost.rubric.total) == ("reward_model", "reward model: no score", 12)
    assert kept.score == pytest.approx(0.9)


def test_reward_model_and_judge_work_at_the_same_time(verifier: Verifier) -> None:
    """Each waits until the other has begun: one after the other they would wait for ever."""
    meeting = threading.Barrier(2, timeout=20)

    class Meets(Model):
        def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float]:
            meeting.wait()
            return [5.0] * len(texts)

    [scores] = score(
        Composite(RewardPart(), verifier, Meets(), CALIBRATION, Batch(FULL, before=meeting.wait)), HONEST_WRONG
    )
    assert scores.score == pytest.approx(0.9)


def test_several_threads_may_score_at_once(verifier: Verifier) -> None:
    inside, most = [], []  # type: list[int], list[int]

    class OneAtATime(Model):
        def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float]:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()
            return [5.0] * len(texts)

    composite = Composite(RewardPart(), verifier, OneAtATime(), CALIBRATION)
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: score(composite, HONEST_WRONG, CORRECT), range(12)))
    assert all([s.gate for s in scores] == ["scored", "correct"] for scores in done)
    assert max(most) == 1
    assert (composite.counts["scored"], composite.counts["judge_saved"]) == (12, 12)
