"""The rewards for verl and OpenRLHF, called as they call them; what becomes of an unscored response there."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pns.errors import UserError
from pns.recipe import RewardPart
from pns.records import Scores
from pns.rewards.adapters import openrlhf, plugin, verl
from pns.rewards.adapters.plugin import RewardAborted, Settings, as_numbers
from pns.rewards.adapters.verl import compute_score

PROBLEM = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 to Tom. How many now?"
WRONG = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"
CORRECT = "Step 1: 12 + 5 = 17\nStep 2: 17 - 3 = 14\nThe answer is \\boxed{14}"
INFO = {"question": PROBLEM, "index": 3, "split": "train"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (plugin.RECIPE, plugin.OVERRIDES, plugin.ON_UNSCORED, openrlhf.END_TOKENS):
        monkeypatch.delenv(name, raising=False)
    yield
    for made in plugin._made.values():
        made.close()
    plugin._made.clear()
    verl._watches.clear()


def recipe(folder: Path, **reward: Any) -> str:
    path = folder / "reward.yaml"
    path.write_text(yaml.safe_dump({"reward": reward}))
    return str(path)


def broken(problem: str, response: str, answer: str | None) -> Any:
    raise ConnectionError("judge is down")


BROKEN = f"{__name__}:broken"


def score(text: str, gold: Any = "14", info: Any = INFO, **settings: Any) -> dict[str, float]:
    found = compute_score(data_source="math", solution_str=text, ground_truth=gold, extra_info=info, **settings)
    return asyncio.run(found)


def test_verl_gets_a_score_and_fixed_numbers(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    wrong, correct, bad = (score(text, recipe=path) for text in (WRONG, CORRECT, "nothing"))
    assert [row["score"] for row in (wrong, correct, bad)] == [pytest.approx(0.8), 0.0, -1.0]
    assert (wrong["acc"], correct["acc"], bad["acc"]) == (0.0, 1.0, 0.0)
    assert (wrong["credit_inversion"], wrong["credit_judge"], wrong["credit_reward_model"]) == (0.4, 0.4, 0.0)
    assert list(wrong) == list(correct) == list(bad)
    assert all(isinstance(value, float) for row in (wrong, correct, bad) for value in row.values())
    assert bad["gate_malformed"] == correct["gate_correct"] == wrong["gate_scored"] == 1.0


def test_verl_reads_problem_tolerance_and_more_from_extra_info(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    assert score(WRONG, 14, recipe=path)["score"] == pytest.approx(0.8)
    assert score(WRONG, "20.4", {**INFO, "tolerance": 0.5}, recipe=path)["gate_correct"] == 1.0
    assert score(WRONG, "20.4", {"statement": PROBLEM}, recipe=path, problem_key="statement")["gate_scored"] == 1.0
    assert score(WRONG, info={**INFO, "finish": "length"}, recipe=path)["gate_malformed"] == 1.0
    with pytest.raises(RewardAborted, match=r"extra_info\.problem: no problem text"):
        score(WRONG, info=None, recipe=path)
    with pytest.raises(RewardAborted, match=r"extra_info\.answer: no gold answer"):
        score(WRONG, None, recipe=path)
    with pytest.raises(RewardAborted, match=r"extra_info\.tolerance"):
        score(WRONG, info={**INFO, "tolerance": "wide"}, recipe=path)
    nothing_reads_it = score(WRONG, info=None, recipe=recipe(tmp_path, judge="none"), overrides="reward.malformed=-2")
    assert nothing_reads_it["score"] == pytest.approx(0.4)


def test_verls_own_arguments_are_taken_and_misspelt_ones_of_ours_are_not(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    row = score(WRONG, recipe=path, reward_router_address="localhost:1", reward_model_tokenizer=None)
    assert row["score"] == pytest.approx(0.8)
    with pytest.raises(RewardAborted, match="did you mean `on_unscored`"):
        score(WRONG, recipe=path, on_unscord=-1)


def test_an_unscored_response_aborts_or_gets_the_stated_penalty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, judge=BROKEN)
    with pytest.raises(RewardAborted, match=r"judge is down.*on_unscored"):
        score(WRONG, recipe=path)
    assert score(CORRECT, recipe=path)["score"] == 0.0  # the judge is not asked
    row = score(WRONG, recipe=path, on_unscored=-0.5)
    assert (row["score"], row["gate_unscored"], row["gate_scored"], row["credit_inversion"]) == (-0.5, 1.0, 0.0, 0.0)
    monkeypatch.setenv(plugin.ON_UNSCORED, "-0.25")
    assert score(WRONG, recipe=path)["score"] == -0.25


def test_verl_is_stopped_for_good_where_too_many_are_unscored(tmp_path: Path) -> None:
    """It leaves an aborted response out and goes on, so one abort is no stop."""
    path = recipe(tmp_path, judge=BROKEN, max_unscored=0.01)
    for _ in range(2):
        with pytest.raises(RewardAborted, match="a response could not be scored"):
            score(WRONG, recipe=path)
        assert score(CORRECT, recipe=path)["score"] == 0.0
    with pytest.raises(
        RewardAborted, match=r"3 of the last 5 responses .*judge is down.*reward.max_unscored .1% of 200."
    ):
        score(WRONG, recipe=path)
    with pytest.raises(RewardAborted, match="3 of the last 5 responses"):
        score(CORRECT, recipe=path)
    for _ in range(5):
        assert score(WRONG, recipe=path, on_unscored=-0.5)["score"] == -0.5
    assert score(CORRECT, recipe=path, on_unscored=-0.5)["score"] == 0.0


def test_what_is_long_past_counts_no_more() -> None:
    watch, scored = plugin.Watch(0.01), Scores(gate="correct", score=0.0, well_formed=True)
    unscored = Scores(gate="unscored", score=None, well_formed=True, unscored_by="judge_server", unscored_cause="down")
    for _ in range(3):
        watch.see(unscored)
        watch.see(unscored)
        for _ in range(plugin.RECENT):
            watch.see(scored)
    watch.check()


def test_an_abort_is_no_exception() -> None:
    """OpenRLHF and verl's rate-limited manager catch Exception and go on with another reward."""
    assert not issubclass(RewardAborted, Exception)


@pytest.mark.parametrize("value", ["stop", "nan", "inf", "", "abort "])
def test_a_penalty_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.ON_UNSCORED, value)
    with pytest.raises(UserError, match="neither `abort` nor a number"):
        Settings.of("reward.yaml")


def test_settings_come_from_arguments_and_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=plugin.RECIPE):
        Settings.of()
    monkeypatch.setenv(plugin.RECIPE, "env.yaml")
    monkeypatch.setenv(plugin.OVERRIDES, " reward.judge=none  reward.max_chars=9 ")
    assert Settings.of() == Settings("env.yaml", ("reward.judge=none", "reward.max_chars=9"), "abort")
    assert Settings.of("a.yaml", ["b=1"], 0) == Settings("a.yaml", ("b=1",), 0.0)


def test_one_reward_a_process_and_settings(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    one = plugin.batcher(Settings(path))
    assert plugin.batcher(Settings(path, on_unscored=-1.0)) is one
    assert plugin.batcher(Settings(path, ("reward.judge=none",))) is not one
    with pytest.raises(UserError, match="no such recipe"):
        plugin.batcher(Settings(str(tmp_path / "none.yaml")))


def test_a_bad_recipe_aborts(tmp_path: Path) -> None:
    with pytest.raises(RewardAborted, match="no such recipe"):
        score(WRONG, recipe=str(tmp_path / "missing.yaml"))


def test_credits_of_terms_that_are_missing_are_nothing() -> None:
    scores = Scores(gate="scored", score=0.4, well_formed=True, inversion=1.0)
    row = as_numbers(scores, RewardPart(), "abort")
    assert row["credit_reward_model"] == row["credit_judge"] == 0.0
    assert math.fsum(v for k, v in row.items() if k.startswith("credit_")) == row["score"]


def whole(text: str, end: str = "<|im_end|>") -> tuple[str, str]:
    prompt = f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
    return prompt + text + end, prompt


LABEL = json.dumps({"answer": "14", "problem": PROBLEM})


def rewarded(query: str, prompt: str, label: Any = LABEL) -> float:
    return float(openrlhf.reward_func([query], [prompt], [label])["rewards"][0])


@pytest.mark.slow
def test_openrlhf_reads_whole_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv(plugin.RECIPE, recipe(tmp_path))
    texts = [whole(WRONG), whole(CORRECT), whole("nothing")]
    out = openrlhf.reward_func([q for q, _ in texts], [p for _, p in texts], [LABEL] * 3, unknown="to us")
    assert torch.allclose(out["rewards"], torch.tensor([0.8, 0.0, -1.0]))
    assert torch.equal(out["rewards"], out["scores"])
    assert out["extra_logs"]["gate_malformed"].tolist() == [0.0, 0.0, 1.0]
    assert rewarded(*whole(WRONG, "</s>")) == pytest.approx(0.8)
    assert rewarded(*whole(WRONG, "<|im_end|> and more")) == -1.0  # a token in the middle is a fault


@pytest.mark.slow
def test_openrlhf_knows_a_cut_off_response_where_it_knows_the_end_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugin.RECIPE, recipe(tmp_path))
    assert rewarded(*whole(WRONG, "")) == pytest.approx(0.8)
    monkeypatch.setenv(openrlhf.END_TOKENS, "<|endoftext|> <|im_end|>")
    assert rewarded(*whole(WRONG, "")) == -1.0
    assert rewarded(*whole(WRONG)) == pytest.approx(0.8)


@pytest.mark.slow
def test_openrlhf_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.RECIPE, recipe(tmp_path))
    assert rewarded(*whole(WRONG), {"answer": "20", "problem": PROBLEM}) == 0.0
    with pytest.raises(RewardAborted, match=r"label\.problem"):
        rewarded(*whole(WRONG), "14")
    monkeypatch.setenv(plugin.OVERRIDES, "reward.judge=none")
    assert rewarded(*whole(WRONG), "14") == pytest.approx(0.4)
    assert rewarded(*whole(WRONG.replace("{20}", r"{\{1, 3\}}")), "{2, 1}") == pytest.approx(0.4)
    assert rewarded(*whole(WRONG), "{20}") == 0.0  # a brace is no JSON


@pytest.mark.slow
def test_openrlhf_tells_a_response_from_a_prompt_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.RECIPE, recipe(tmp_path))
    prompt = (
        "<|im_start|>user\n" + "".join(f"Line {i} of a long prompt. " for i in range(40)) + "\n<|im_start|>assistant\n"
    )
    assert openrlhf.response_in(prompt + WRONG, prompt) == (WRONG, "stop")
    assert openrlhf.response_in("<s>" + prompt[-300:] + WRONG, prompt) == (WRONG, "stop")
    assert openrlhf.response_in(prompt + WRONG + prompt, prompt) == (
        WRONG + prompt,
        "stop",
    )  # a response that quotes it
    with pytest.raises(RewardAborted, match="does not hold the end of its prompt"):
        rewarded(WRONG, "another prompt")


@pytest.mark.slow
def test_openrlhf_aborts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.RECIPE, recipe(tmp_path, judge=BROKEN))
    with pytest.raises(RewardAborted, match="judge is down"):
        rewarded(*whole(WRONG))
    monkeypatch.setenv(plugin.ON_UNSCORED, "-0.5")
    assert rewarded(*whole(WRONG)) == -0.5


def test_verls_router_takes_the_place_of_the_servers_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def stop(settings: plugin.Settings) -> None:
        asked.append(settings.overrides)
        raise UserError("stopped here")

    monkeypatch.setattr("pns.rewards.adapters.verl.batcher", stop)
    call = ("math", "text", "3", {"problem": "Q"})
    router: dict[str, Any] = {"use_router": True, "overrides": "reward.judge=none"}
    with pytest.raises(RewardAborted, match="stopped here"):
        asyncio.run(compute_score(*call, recipe="r.yaml", reward_router_address="[::1]:99", **router))
    assert asked == [("reward.judge=none", "reward.reward_model.server.url=http://[::1]:99")]
    with pytest.raises(RewardAborted, match="verl has no router"):
        asyncio.run(compute_score(*call, recipe="r.yaml", **router))
    with pytest.raises(RewardAborted, match="stopped here"):
        asyncio.run(compute_score(*call, recipe="r.yaml", reward_router_address="[::1]:99"))
    assert asked[-1] == (), "only where it is asked for"
