"""What else negatives are good for: a step verifier that learns, and the stages of a study on a tiny model."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small import save_small_model
from pns.errors import UserError
from pns.evaluation.processbench import Chain, evaluate
from pns.evaluation.step_verifier import StepVerifier, encode
from pns.problems import embedded, families
from pns.recipe import Recipe, RuntimePart, StepVerifierPart
from pns.recipe_files import load_recipe
from pns.records import Pair, Problem, Response, Verdict, write_parquet
from pns.rewards.adapters.trl import scored_reward
from pns.rewards.reward_model import Calibration
from pns.run import read_json
from pns.sampling.engine import load_tokenizer
from pns.stages import models, uses
from pns.stages.context import Context
from pns.training.step_verifier import NO_LABEL, row_of, train_step_verifier

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
PROBLEM = "Mia has 3 apples. First Mia finds 4 apples. How many apples does Mia have now?"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_small_model(tmp_path_factory.mktemp("start"))


def chain(*steps: str, label: int = -1) -> Chain:
    return Chain(id="x", problem=PROBLEM, steps=steps, label=label)


def test_labels_stand_at_the_end_of_each_step_up_to_the_first_wrong_one(start: Path) -> None:
    tokenizer = load_tokenizer(start)
    steps = ("Step 1: 3 + 4 = 8", " Step 2: 8 + 1 = 9 ", "The answer is \\boxed{9}")
    ids, places = encode(tokenizer, PROBLEM, steps)
    assert [tokenizer.decode(ids[at]).strip() for at in places] == ["8", "9", "}"]
    assert "8\nStep 2" in tokenizer.decode(ids).replace(" \n ", "\n"), "one line break between steps"
    row = row_of(tokenizer, chain(*steps, label=1))
    assert row["input_ids"] == ids
    assert [row["labels"][at] for at in places] == [1, 0, NO_LABEL]
    assert sum(label != NO_LABEL for label in row["labels"]) == 2
    right = row_of(tokenizer, chain(*steps))["labels"]
    assert [right[at] for at in places] == [1, 1, 1]


def made_up(n: int, seed: int) -> list[Chain]:
    """Half of the chains have a step with the result 97, which is the first wrong one."""
    rng, out = random.Random(seed), []
    for i in range(n):
        results = [rng.randint(1, 60) for _ in range(3)]
        label = -1 if i % 2 else rng.randrange(3)
        if label >= 0:
            results[label] = 97
        out.append(chain(*(f"Step {k}: 3 + 4 = {r}" for k, r in enumerate(results, 1)), label=label))
    return out


def test_a_step_verifier_learns_and_reads_as_it_was_trained(start: Path, tmp_path: Path) -> None:
    part = StepVerifierPart(steps=60, batch_size=16, learning_rate=1e-2)
    train_step_verifier(
        start, made_up(200, 1), tmp_path, part=part, runtime=RuntimePart(), seed=0, progress=lambda *_: None
    )
    held = made_up(60, 2)
    reader = StepVerifier(tmp_path / "model", batch_size=7)
    found = evaluate(held, reader.read(held), locates=True, samples=50, seed=0)
    assert found["f1"]["f1"]["value"] > 0.9
    assert found["auc"]["value"] > 0.9
    long = chain(*["Step 1: 3 + 4 = 7"] * 200)
    assert reader.read([long])[0].cause == "longer than the model's positions"
    assert reader.read([]) == []


def test_bad_input_is_told(start: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"runtime": RuntimePart(), "seed": 0, "progress": lambda *_: None}
    with pytest.raises(UserError, match="and right ones"):
        train_step_verifier(start, made_up(8, 1)[::2], tmp_path, part=StepVerifierPart(steps=1), **how)
    with pytest.raises(UserError, match=r"uses\.step_verifier\.max_length"):
        train_step_verifier(start, made_up(8, 1), tmp_path, part=StepVerifierPart(steps=1, max_length=20), **how)
    with pytest.raises(UserError, match="no usable tokenizer"):
        StepVerifier(tmp_path / "nowhere")


def test_a_reward_model_pays_what_is_well_formed_and_unscored_is_not_zero() -> None:
    class Scorer:
        def score(self, problems: Any, texts: Any) -> list[float | None]:
            return [None if "97" in text else float(len(text)) for text in texts]

    problem = Problem(id="p", problem=PROBLEM, answer="7")
    calibration = Calibration(n=1, median=40.0, scale=10.0, quantiles={})
    reward = scored_reward(
        Scorer(), calibration, {"p": problem}, answer_format="boxed", max_chars=4000, eos_ids={1}
    )  # fmt: skip
    wrong = "Step 1: 3 + 3 = 6\nThe answer is \\boxed{6}"
    texts = [wrong, wrong.replace("6", "97"), wrong, "7"]
    found = reward(prompts=[""] * 4, completions=texts, completion_ids=[[1], [1], [5], [1]], problem_id=["p"] * 4)
    assert found == [pytest.approx(1 / (1 + math.exp(-(len(wrong) - 40) / 10))), None, 0.0, 0.0]


def verdict(right: bool) -> Verdict:
    return Verdict(outcome="correct" if right else "wrong", answer="1")


@pytest.fixture(scope="module")
def inputs(start: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the stages read: a reward model of the smoke recipe on right answers and misreadings, and pairs of slips."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("problems", "rollouts-reward", "pairs", "rlvr"):
        (folder / name).mkdir()
    (folder / "rlvr" / "model").symlink_to(start)
    reward, pairs = (embedded.training_problems(split, 60, 0) for split in ("reward", "pairs"))
    generator = embedded.training_problems("generator", 16, 0)
    for split, rows in (("reward", reward), ("pairs", pairs), ("generator", generator)):
        write_parquet(folder / "problems" / f"{split}.parquet", rows)
    answers = [
        Response(problem_id=p.id, text=text, index=i, source="policy", verdict=verdict(text == p.solution))
        for p in reward
        for i, text in enumerate((p.solution or "", slip(p)))
    ]
    write_parquet(folder / "rollouts-reward" / "responses.parquet", answers)
    made = [
        Pair(problem_id=p.id, method="pns", prompt=p.problem, chosen=p.solution or "", rejected=slip(p), chosen_answer=p.answer)
        for p in pairs
    ]  # fmt: skip
    write_parquet(folder / "pairs" / "matched-pns.parquet", made)
    found = {path.name: path for path in folder.iterdir()}
    work(tmp_path_factory.mktemp("reward_model"), "reward_model", found, models.reward_model, "reward")
    return found


def slip(problem: Problem) -> str:
    """The solution with its last result one too large, and boxed."""
    lines = (problem.solution or "").splitlines()
    left, _, result = lines[-2].rpartition(" = ")
    wrong = (int(result) + 1) % families.LIMIT
    return "\n".join([*lines[:-2], f"{left} = {wrong}", f"The answer is \\boxed{{{wrong}}}"])


def recipe() -> Recipe:
    return load_recipe(SMOKE, ["generator.steps=2", "uses.step_verifier.steps=2", "rollouts.n=2"])[0]


def work(out: Path, name: str, inputs: dict[str, Path], stage: Any, *args: str) -> Path:
    """Run one stage here; its folder is then an input of the next ones."""
    stage(Context(recipe(), name, out, inputs, lambda *_: None), *args)
    inputs[name] = out
    return out


def test_the_stage_of_a_step_verifier_counts_what_rules_could_label(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = work(tmp_path, "step_verifier-pns", dict(inputs), uses.step_verifier, "matched-pns")
    told = read_json(out / "verifier.json")
    assert (told["n_training_pairs"], told["n_right"], told["n_wrong"]) == (60, 60, 60)
    assert told["held_out"]["n"] == 120
    assert told["held_out"]["erroneous"] == 60
    assert (out / "model" / "model.safetensors").is_file()


def test_the_stage_of_calibration_holds_out_what_the_reward_model_saw(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = work(tmp_path, "calibration-pns", dict(inputs), uses.calibration, "matched-pns")
    told = read_json(out / "probabilities.json")
    assert told["prior"] == pytest.approx(0.5)
    judged = told["judge"]["fitted_on_pairs"]
    assert (judged["n_fitted"], judged["n"]) == (120, 30), "a quarter of the problems, two answers each"
    assert judged["auc"] == 1.0, "the step checker sees every slip"
    assert judged["ece"] < 0.1
    assert set(told["both"]) == {"fitted_on_pairs", "fitted_on_policy"}


def test_the_stage_of_rl_trains_on_the_reward_model_alone(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = work(tmp_path, "rl-plain", dict(inputs), uses.rl, "reward_model")
    rows = [row for row in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if '"reward"' in row]
    assert len(rows) == 2
    assert (out / "model" / "model.safetensors").is_file()
