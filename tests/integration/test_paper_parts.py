"""What recipes at the paper's scale need, at tiny size: other bases, a system prompt, no SFT, batches in several passes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.small import save_small_model, swap
from pns.errors import UserError
from pns.plan.check_models import template_fault
from pns.problems import embedded
from pns.recipe import AlignPart, ModelPart, Recipe, RewardModelPart, RuntimePart
from pns.recipe_files import load_recipe
from pns.records import Pair
from pns.rewards.reward_model import RewardModel
from pns.stages.policy import make_base, make_start, sft
from pns.training.preference import train_preference
from pns.training.pretrained import load_pretrained, with_system_prompt
from pns.training.reward_model import train_reward_model

FILES = Path(__file__).parents[2] / "recipes" / "smollm2-gsm8k.yaml"
PROMPT = "Think in steps, and put the answer into \\boxed{}. \"Quotes\", 'more', {% braces %}, ü 😀"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("start"))


def with_system_turns(start: Path, folder: Path) -> Path:
    """The small model under a chat template that writes every turn, as Qwen's does."""
    AutoModelForCausalLM.from_pretrained(start).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.chat_template = CHATML.replace("<|im_end|>", tokenizer.eos_token)
    tokenizer.save_pretrained(folder)
    return folder


def context(out: Path, recipe: Recipe) -> Any:
    return SimpleNamespace(recipe=recipe, out=out, seed=0, model=lambda stage: out.parent / stage / "model")


def test_a_system_prompt_goes_into_the_template_and_survives_saving(start: Path, tmp_path: Path) -> None:
    folder = with_system_turns(start, tmp_path / "m")
    _, tokenizer = load_pretrained(ModelPart(kind="pretrained", path=str(folder), system_prompt=PROMPT))
    tokenizer.save_pretrained(tmp_path / "again")
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "again")):
        text = one.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
        assert (
            text
            == f"<|im_start|>system\n{PROMPT}{one.eos_token}\n<|im_start|>user\nx{one.eos_token}\n<|im_start|>assistant\n"
        )
        own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "x"}]
        assert PROMPT not in one.apply_chat_template(own, tokenize=False)


def test_a_template_without_a_system_turn_is_refused(start: Path, tmp_path: Path) -> None:
    folder = with_system_turns(start, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for template in (
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + eos_token }}{% endfor %}",
        "{{ raise_exception('no system') if messages[0]['role'] == 'system' else '' }}"
        "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}",
    ):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        with pytest.raises(UserError, match="takes no system prompt") as caught:
            load_pretrained(ModelPart(kind="pretrained", path=str(folder), system_prompt=PROMPT))
        assert caught.value.field == "model.system_prompt"


def test_other_bases_are_published_in_the_form_of_the_start(start: Path, tmp_path: Path) -> None:
    folder = with_system_turns(start, tmp_path / "other")
    given = [f"model={{kind: pretrained, path: {folder}, system_prompt: short}}", "problems.train_file=gsm8k-train",
             "problems.benchmarks={g: gsm8k}"]  # fmt: skip
    recipe = load_recipe(
        FILES, [*given, f"generator.base={{path: {folder}}}", f"reward_model.base={{path: {folder}}}"]
    )[0]
    for name in ("start", "start-generator"):
        (tmp_path / name).mkdir()
    make_start(context(tmp_path / "start", recipe))
    make_base(context(tmp_path / "start-generator", recipe), "generator")
    ours, policy = (AutoTokenizer.from_pretrained(tmp_path / n / "model") for n in ("start-generator", "start"))
    assert ours.chat_template == policy.chat_template
    assert "short" in ours.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    missing = load_recipe(FILES, [*given, "reward_model.base={path: ./nowhere}"])[0]
    with pytest.raises(UserError, match="no such directory") as caught:
        make_base(context(tmp_path / "start-generator", missing), "reward_model")
    assert caught.value.field == "reward_model.base.path"


def test_without_sft_the_start_is_published_as_it_is(start: Path, tmp_path: Path) -> None:
    recipe = load_recipe(FILES, ["problems.splits.sft=0", "sft.steps=0"])[0]
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model").symlink_to(start)
    (tmp_path / "sft" / "model").mkdir(parents=True)  # left by an interrupted attempt
    sft(context(tmp_path / "sft", recipe))
    for file in start.iterdir():
        assert (tmp_path / "sft" / "model" / file.name).read_bytes() == file.read_bytes()


def weights(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.slow
def test_a_batch_in_several_passes_trains_as_one(start: Path, tmp_path: Path) -> None:
    """Preference and reward model: mean losses over equal parts are the loss over the whole."""
    rows = [(p.problem, p.solution or "") for p in embedded.training_problems("pairs", 8, 0)]
    pairs = [Pair(problem_id=p, method="flip", prompt=p, chosen=r, rejected=swap(r)) for p, r in rows]
    triples = [(p, r, swap(r)) for p, r in rows]
    ends, scores = [], []
    # Activations computed again in the backward pass change nothing either.
    for passes, again in ((1, False), (4, True)):
        how: dict[str, Any] = {
            "runtime": RuntimePart(gradient_checkpointing=again), "seed": 1, "progress": lambda *_: None,
        }  # fmt: skip
        out = tmp_path / f"dpo-{passes}"
        part = AlignPart(batch_size=4, learning_rate=1e-3, gradient_accumulation=passes)
        history = train_preference(start, pairs, out, part=part, **how)
        assert sum("loss" in row for row in history) == 2, "as many steps"
        ends.append(weights(out))
        out = tmp_path / f"rm-{passes}"
        train_reward_model(
            start, triples, out, part=RewardModelPart(steps=2, batch_size=4, gradient_accumulation=passes), **how
        )
        scores.append(RewardModel(out / "model").score([p for p, _ in rows], [r for _, r in rows]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-5)
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    before = torch.cat([p.detach().flatten() for p in AutoModelForCausalLM.from_pretrained(start).parameters()])
    assert (ends[0] - before).abs().max() > 1e-4, "and they train"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: None, None),
        (lambda t: setattr(t, "chat_template", None), "no chat template"),
        (lambda t: setattr(t, "chat_template", t.chat_template.replace(t.eos_token, "</s>")), "not with the end token"),
        (lambda t: setattr(t, "chat_template", "{{ raise_exception('no') }}"), "refuses a conversation"),
        (
            lambda t: setattr(t, "chat_template", t.chat_template.replace("m['content']", "m['content'].upper()")),
            "changes the answer",
        ),
        (
            lambda t: setattr(t, "chat_template", t.chat_template + "{% if add_generation_prompt %}<think>{% endif %}"),
            "otherwise than the prompt that sampling gives",
        ),
    ],
)
def test_a_template_that_harms_answers_is_named(start: Path, tmp_path: Path, change: Any, words: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.chat_template = CHATML.replace("<|im_end|>", tokenizer.eos_token)
    change(tokenizer)
    fault = template_fault(tokenizer, "boxed", None)
    assert fault is None if words is None else words in (fault or "")


def test_a_model_that_only_reads_may_begin_answers_as_it_likes(start: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(start)
    plain = CHATML.replace("<|im_end|>", tokenizer.eos_token)
    tokenizer.chat_template = plain + "{% if add_generation_prompt %}<think>{% endif %}"
    assert template_fault(tokenizer, "boxed", None, sampled=False) is None
    tokenizer.chat_template = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + eos_token }}{% endfor %}"
    )
    assert "takes no system prompt" in (template_fault(tokenizer, "boxed", "be brief", sampled=False) or "")
    assert with_system_prompt("x", "a").endswith("x")
