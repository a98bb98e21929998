"""The adapters for TRL, called as `GRPOTrainer._calculate_rewards` calls them."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pns.errors import StageStopped, UserError
from pns.recipe import RewardPart
from pns.records import Problem, Rubric, Verdict
from pns.rewards import Calibration, Composite
from pns.rewards.adapters.log import RewardLog
from pns.rewards.adapters.trl import (
    completion_text,
    composite_reward,
    either_reward,
    last_user_message,
    rlvr_reward,
    signed_reward,
)
from pns.rewards.judging import Judgement
from pns.verify import Verifier

P = Problem(id="a", problem="Mia has 12 apples. Mia finds 5 apples. Mia gives 3 to Tom. How many now?", answer="14")
WRONG = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"
CORRECT = "Step 1: 12 + 5 = 17\nStep 2: 17 - 3 = 14\nThe answer is \\boxed{14}"
UNDECIDED = WRONG.replace("{20}", r"{\text{twenty}}")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as v:
        yield v


def call(
    reward: Any, texts: Sequence[str], *, cut: bool = False, chat: bool = True, **extra: Any
) -> list[float | None]:
    completions = [[{"role": "assistant", "content": t}] if chat else t for t in texts]
    ids = [[5, 6] if cut else [5, 6, 1] for _ in texts]
    columns = {"problem_id": ["a"] * len(texts), "trainer_state": None, **extra}
    prompts = [[{"role": "user", "content": P.problem}]] * len(texts)
    out = reward(**{"prompts": prompts, "completions": completions, "completion_ids": ids, **columns})
    return asyncio.run(out) if inspect.iscoroutine(out) else out


class Dead:
    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float]:
        raise ConnectionError("server down")


def test_composite_rewards_and_metrics(verifier: Verifier) -> None:
    logged: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    rows: list[dict[str, float]] = []
    composite = Composite(RewardPart(), verifier)
    reward = composite_reward(composite, {"a": P}, max_unscored=0.05, eos_ids={1, 2}, metrics=rows.append)
    out = call(
        reward, [WRONG, CORRECT, "nothing", UNDECIDED], log_metric=logged.__setitem__, log_extra=extra.__setitem__
    )
    assert out == [pytest.approx(0.8), 0.0, -1.0, -1.0]
    shares = dict.fromkeys(("malformed", "undecided", "correct", "scored"), 0.25)
    assert rows == [{**shares, "unscored": 0.0, "mean_C": 1.0}]
    assert logged == {f"composite/{k}": v for k, v in rows[0].items()}
    assert extra == {"gate": ["scored", "correct", "malformed", "undecided"]}
    assert reward.__name__ == "composite"
    assert call(reward, [WRONG], chat=False) == [pytest.approx(0.8)]
    assert call(reward, [WRONG], cut=True) == [-1.0]


def test_a_dead_reward_model_gives_none_and_then_stops_the_stage(verifier: Verifier) -> None:
    composite = Composite(RewardPart(), verifier, Dead(), Calibration.fit([0.0, 1.0]))
    reward = composite_reward(composite, {"a": P}, max_unscored=0.05, eos_ids={1}, window_steps=20)
    assert call(reward, [WRONG]) == [None]  # 1 of 20 responses in a full window is exactly the limit
    with pytest.raises(StageStopped, match="ConnectionError: server down"):
        call(reward, [WRONG])


def test_an_exhausted_budget_names_its_remedy(verifier: Verifier) -> None:
    class Spent:
        def judge(self, problems: Any, responses: Any, answers: Any) -> list[Judgement]:
            return [Judgement(failure="budget", detail="max_calls: 5 is reached")] * len(problems)

    reward = composite_reward(Composite(RewardPart(), verifier, judge=Spent()), {"a": P}, max_unscored=0, eos_ids={1})
    with pytest.raises(StageStopped, match=r"max_calls: 5 is reached\n  -> raise reward\.judge_server\.max_calls"):
        call(reward, [WRONG])


def test_rare_failures_do_not_stop_it_and_old_ones_are_forgotten(verifier: Verifier) -> None:
    fails: list[bool] = []

    def judge(*args: Any) -> Any:
        if fails.pop():
            raise TimeoutError("slow")
        return Rubric(relevance=3, coherence=3, completeness=3, consistency=3)

    composite = Composite(RewardPart(), verifier, judge=judge)
    reward = composite_reward(composite, {"a": P}, max_unscored=0.25, eos_ids={1}, window_steps=4)
    for fail in (True, False, False, False) * 3:
        fails.append(fail)
        call(reward, [WRONG])
    fails.append(True)
    call(reward, [WRONG])
    fails.append(True)
    with pytest.raises(StageStopped, match="TimeoutError"):
        call(reward, [WRONG])


def test_rlvr(verifier: Verifier) -> None:
    logged: dict[str, float] = {}
    reward = rlvr_reward(verifier, {"a": P}, format_weight=0.1, answer_format="boxed", max_chars=2000, eos_ids={1})
    out = call(
        reward, [CORRECT, WRONG, UNDECIDED, "\\boxed{14}", CORRECT + " or 15, so there"], log_metric=logged.__setitem__
    )
    assert out == [pytest.approx(1.1), pytest.approx(0.1), pytest.approx(0.1), 0.0, 0.0]
    assert logged == {"rlvr/well_formed": 0.6, "rlvr/correct": 0.2, "rlvr/undecided": 0.2}
    assert call(reward, [CORRECT], cut=True) == [0.0]


def test_the_signed_reward_is_1_for_what_rlvr_pays_for_and_else_minus_1(verifier: Verifier) -> None:
    logged: dict[str, float] = {}
    reward = signed_reward(verifier, {"a": P}, answer_format="boxed", max_chars=2000, eos_ids={1})
    malformed = ["\\boxed{14}", CORRECT + " or 15, so there", "nothing"]
    out = call(reward, [CORRECT, WRONG, UNDECIDED, *malformed], log_metric=logged.__setitem__)
    assert out == [1, -1, -1, -1, -1, -1]
    assert logged["rlvr/correct"] == pytest.approx(1 / 6)
    assert call(reward, [CORRECT], cut=True) == [-1]


def test_of_two_goals_each_problem_is_paid_for_its_own(verifier: Verifier) -> None:
    rules: dict[str, Any] = {"format_weight": 0.1, "answer_format": "boxed", "max_chars": 8000, "eos_ids": {1}}
    problems = {name: P.model_copy(update={"id": name}) for name in ("err", "solve")}
    composite = Composite(RewardPart(), verifier)
    mistakes = composite_reward(composite, problems, max_unscored=0.05, eos_ids={1})
    reward = either_reward(mistakes, rlvr_reward(verifier, problems, name="solving", **rules), {"solve"})
    logged: dict[str, float] = {}
    texts, ids = [WRONG, WRONG, CORRECT, CORRECT, "nothing"], ["err", "solve", "err", "solve", "err"]
    out = call(reward, texts, problem_id=ids, log_metric=logged.__setitem__)
    assert out == [pytest.approx(0.8), 0.1, 0.0, 1.1, -1.0]
    assert logged["solving/correct"] == 0.5
    assert logged["composite/scored"] == pytest.approx(1 / 3), "shares of the mistakes that were asked for"
    assert inspect.iscoroutinefunction(reward), "TRL waits for it beside other rewards"
    logged.clear()
    assert call(reward, [CORRECT], problem_id=["solve"], log_metric=logged.__setitem__) == [1.1]
    assert {name.split("/")[0] for name in logged} == {"solving"}, "nothing is said of what was not asked for"


def test_rlvr_is_silent_where_the_gold_answer_or_the_system_failed() -> None:
    class Broken(Verifier):
        def verify_problems(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
            return [Verdict(outcome="undecided", cause=c) for c in ("gold", "system", "response")]

    reward = rlvr_reward(Broken(), {"a": P}, format_weight=0.1, answer_format="boxed", max_chars=2000, eos_ids={1})
    assert call(reward, [WRONG] * 3) == [None, None, 0.1]
    reward = signed_reward(Broken(), {"a": P}, answer_format="boxed", max_chars=2000, eos_ids={1})
    assert call(reward, [WRONG] * 3) == [None, None, -1], "unscored is not wrong"


def test_problem_ids_must_be_there_and_known(verifier: Verifier) -> None:
    reward = composite_reward(Composite(RewardPart(), verifier), {"a": P}, max_unscored=0.05, eos_ids={1})
    with pytest.raises(UserError, match="problem_id"):
        call(reward, [WRONG], problem_id=None)
    with pytest.raises(UserError, match="unknown problem"):
        call(reward, [WRONG], problem_id=["b"])


def test_it_is_asynchronous_as_trl_sees_it(verifier: Verifier) -> None:
    """TRL awaits what `inspect.iscoroutinefunction` calls one; anything else it takes for the rewards themselves."""
    assert inspect.iscoroutinefunction(composite_reward(Composite(RewardPart(), verifier), max_unscored=0, eos_ids={1}))


def test_the_event_loop_goes_on_while_it_scores(verifier: Verifier) -> None:
    reward = composite_reward(Composite(RewardPart(), verifier, judge=slow), {"a": P}, max_unscored=1, eos_ids={1})

    async def both() -> list[str]:
        said: list[str] = []

        async def other() -> None:
            await asyncio.sleep(0)
            said.append("other")
            released.set()

        async def scoring() -> None:
            await reward(
                prompts=["?"], completions=[WRONG], completion_ids=[[1]], problem_id=["a"]
            )  # waits in `slow` until the other task has run
            said.append("reward")

        await asyncio.gather(scoring(), other())
        return said

    assert asyncio.run(both()) == ["other", "reward"]


released = threading.Event()


def slow(problem: str, response: str, answer: str | None) -> Rubric:
    assert released.wait(30)
    return Rubric(relevance=3, coherence=3, completeness=3, consistency=3)


def test_columns_instead_of_problems(verifier: Verifier) -> None:
    """The gold answer and what there is beside it; the problem is the prompt's last user message, or a column."""
    seen: list[str] = []

    def judge(problem: str, response: str, answer: str | None) -> Rubric:
        seen.append(problem)
        return Rubric(relevance=3, coherence=3, completeness=3, consistency=3)

    reward = composite_reward(Composite(RewardPart(), verifier, judge=judge), max_unscored=1, eos_ids={1})
    assert call(reward, [WRONG, CORRECT], problem_id=None, answer=["14", "14"]) == [pytest.approx(0.8), 0.0]
    assert call(reward, [WRONG], answer=[20]) == [0.0]
    assert call(reward, [WRONG], answer=["20.4"], tolerance=[0.5]) == [0.0]
    assert call(reward, [WRONG], answer=["21"], tolerance=[None], problem=["Another."]) == [pytest.approx(0.8)]
    assert seen == [P.problem, "Another."]
    with pytest.raises(UserError, match=r"dataset's columns\.answer: no gold answer"):
        call(reward, [WRONG])
    with pytest.raises(UserError, match=r"columns\.kind"):
        call(reward, [WRONG], answer=["1"], kind=["poem"])


def test_the_last_user_message() -> None:
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert last_user_message([*said, {"role": "user", "content": [{"type": "text", "text": "three"}]}]) == "three"
    assert last_user_message(said) == "one"
    assert last_user_message("bare") == "bare"
    assert last_user_message([{"role": "system", "content": "x"}]) == ""


def test_every_completion_is_logged_and_a_resume_takes_back_what_came_after_it(
    verifier: Verifier, tmp_path: Path
) -> None:
    path = tmp_path / "log" / "rewards.jsonl"

    def at(reward: Any, step: int, *texts: str) -> None:
        call(reward, texts, trainer_state=SimpleNamespace(global_step=step))

    def fresh() -> Any:
        return composite_reward(Composite(RewardPart(), verifier), {"a": P}, max_unscored=1, eos_ids={1}, log=path)

    first = fresh()
    at(first, 0, WRONG, CORRECT)
    at(first, 1, "nothing")
    at(first, 2, WRONG)
    whole = path.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [(row["step"], row["gate"], row["score"]) for row in rows] == [
        (0, "scored", pytest.approx(0.8)), (0, "correct", 0.0), (1, "malformed", -1.0), (2, "scored", pytest.approx(0.8)),
    ]  # fmt: skip
    assert rows[0]["completion"] == WRONG
    assert rows[0]["problem_id"] == "a"
    assert rows[0]["rubric"]["coherence"] == 3
    assert rows[2]["format_failures"] == ["no_answer"]
    path.write_bytes(whole + b'{"step": 3, "cut off by a kill')
    again = fresh()  # from a checkpoint after step 1
    at(again, 1, "nothing")
    at(again, 2, WRONG)
    assert path.read_bytes() == whole
    at(fresh(), 0, WRONG)  # from the start
    assert len(path.read_bytes().splitlines()) == 1


def test_each_rank_writes_a_log_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert RewardLog(tmp_path / "rewards.jsonl").path == tmp_path / "rewards.rank3.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert RewardLog(tmp_path / "rewards.jsonl").path == tmp_path / "rewards.jsonl"


def test_the_text_of_a_completion() -> None:
    assert completion_text("a") == "a"
    assert completion_text([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "x"}]) == "a"
