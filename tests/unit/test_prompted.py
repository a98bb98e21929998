"""Negatives that a prompted model writes: prompts out, replies in, what a recipe may say, and what re-runs them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pns import fingerprints, pipeline
from pns.errors import UserError
from pns.negatives.prompted import (
    ANSWER_FORMS,
    MAX_CHARS_A_TOKEN,
    MalformedReply,
    load_prompt,
    parse_reply,
    quoted,
    styles_of,
)
from pns.recipe import NegativesPart, PromptedPart, Recipe
from pns.recipe_files import load_recipe
from pns.verify import extract
from pns.verify.extract import FORMATS

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
PROBLEM = "Ann has 2 apples and buys 3 more. How many has she now?"
SOLUTION = "Step 1: 2 + 3 = 5\nThe answer is \\boxed{5}"


# Prompts.


@pytest.mark.parametrize("style", ["ask", "edit"])
def test_the_prompt_holds_the_problem_the_form_of_the_answer_and_no_more_than_its_style_needs(style: str) -> None:
    prompt = load_prompt(PromptedPart())
    text = prompt.render(PROBLEM, SOLUTION if style == "edit" else None, "boxed")
    assert prompt.version == "wrong-v1"
    assert text.count(PROBLEM) == 1
    assert text.count(SOLUTION) == (style == "edit")
    assert ("correct_solution" in text) == (style == "edit")
    assert ANSWER_FORMS["boxed"] in text
    assert "between <solution> and </solution>" in text
    assert "{%" not in text
    assert "{{" not in text


def test_every_answer_format_has_words_whose_example_can_be_read() -> None:
    assert set(ANSWER_FORMS) == set(FORMATS)
    for answer_format, words in ANSWER_FORMS.items():
        example = words.replace("...", "12").partition("as in: ")[2].partition(". ")[0]
        assert extract(f"<think>x</think>{example}", answer_format).answer == "12"


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "</problem>",
                "<problem>",
                "</solution>",
                "<SOLUTION>",
                "</correct_solution>",
                "<|im_end|>",
                "{{ problem }}",
            ]
        ),
        st.text(max_size=5),
    )
).map("".join)


@given(HOSTILE, HOSTILE)
@settings(max_examples=100, deadline=None)
def test_no_text_ends_its_quotation_or_is_run_as_a_template(problem: str, solution: str) -> None:
    prompt = load_prompt(PromptedPart())
    text = prompt.render(problem, f"x{solution}", "boxed")
    bare = prompt.render("", "x", "boxed")
    for mark in ("<problem>", "</problem>", "<correct_solution>", "</correct_solution>", "<solution>", "</solution>"):
        assert text.lower().count(mark) == bare.count(mark)
    assert "<|im_end|>" not in text
    assert f"<problem>\n{quoted(problem)}\n</problem>" in text
    assert f"<correct_solution>\n{quoted(f'x{solution}')}\n</correct_solution>" in text


def test_a_users_own_prompt(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Err in {{ problem }}{% if solution %}, as in {{ solution }}{% endif %}. {{ answer_form }}")
    prompt = load_prompt(PromptedPart(prompt=str(file), style="both"))
    assert prompt.version.startswith("file:")
    assert prompt.render("P", None, "gsm8k") == f"Err in P. {ANSWER_FORMS['gsm8k']}"
    assert prompt.render("P", "S", "gsm8k") == f"Err in P, as in S. {ANSWER_FORMS['gsm8k']}"
    file.write_text("Err in {{ problem }}.")
    assert load_prompt(PromptedPart(prompt=str(file))).version != prompt.version


@pytest.mark.parametrize(
    ("style", "text", "words"),
    [
        ("ask", "Err.", "no {{ problem }}"),
        ("edit", "{{ problem }}", "no {{ solution }}"),
        ("both", "{{ problem }}", "no {{ solution }}"),
        ("edit", "{{ problem }} {{ solution | upper }}", "with style edit"),
        ("ask", "{% if solution %}{{ problem }}{% endif %}", "with style ask"),
        ("ask", "{{ problem }} {{ answer }}", "unknown placeholder {{ answer }}"),
        ("ask", "{{ problem }} {% if %}", "not a Jinja template"),
        ("ask", "{{ problem }} {{ 1 // 0 }}", "does not render"),
        ("ask", "{{ problem }} {{ ().__class__.__mro__ }}", "does not render"),
    ],
)
def test_a_bad_prompt_is_refused(tmp_path: Path, style: Any, text: str, words: str) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(text)
    with pytest.raises(UserError, match=words.replace("{", r"\{")) as caught:
        load_prompt(PromptedPart(prompt=str(file), style=style))
    assert caught.value.remedy


# Replies.


def parsed(text: str, finish: Any = "stop", answer_format: str = "boxed", max_tokens: int = 100) -> Any:
    return parse_reply(text, finish, answer_format=answer_format, max_tokens=max_tokens)


@pytest.mark.parametrize(
    "reply",
    [
        SOLUTION,
        f"\n\n{SOLUTION}\n ",
        f"<solution>\n{SOLUTION}\n</solution>",
        f"Here is a wrong solution:\n<solution>{SOLUTION}</solution>\nThe right answer is 5.",
        f"```\n{SOLUTION}\n```",
        f"```latex\n{SOLUTION}\n  ```",
        f"<solution>\n```text\n{SOLUTION}\n```\n</solution>",
        f"<think>I should <solution> err.</think>\n{SOLUTION}",
        f"So I err.</think><solution>{SOLUTION}</solution>",
    ],
)
def test_the_solution_is_all_that_is_left_of_a_reply(reply: str) -> None:
    assert parsed(reply) == (SOLUTION, "stop")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("<solution></solution>", "empty"),
        ("<think>a</think>", "empty"),
        (f"<solution>{SOLUTION}", "one pair"),
        (f"{SOLUTION}</solution>", "one pair"),
        (f"</solution>{SOLUTION}<solution>", "one pair"),
        (f"<solution>{SOLUTION}</solution><solution>7</solution>", "one pair"),
        ("<think>I wonder", "never closes"),
        ("x" * (100 * MAX_CHARS_A_TOKEN + 1), "longer"),
    ],
)
def test_a_reply_without_a_solution_is_malformed(reply: str, words: str) -> None:
    with pytest.raises(MalformedReply, match=words):
        parsed(reply)


def test_nothing_else_is_cut_or_mended() -> None:
    for text in (
        "Sure! 2 + 3 = 6. \\boxed{6}",
        "```\n6\n```\nand\n```\n7\n```",
        "a ``` b",
        "I made a mistake: \\boxed{6}",
    ):
        assert parsed(text) == (text, "stop")


def test_a_reply_that_was_cut_is_whole_where_its_tags_are() -> None:
    assert parsed(SOLUTION, "length") == (SOLUTION, "length")
    assert parsed(f"<solution>{SOLUTION}</solution> I hope", "length") == (SOLUTION, "stop")


def test_thoughts_are_part_of_the_answer_where_the_format_says_so() -> None:
    text = "<think>2 + 3 = 6</think>The answer is \\boxed{6}"
    assert parsed(text, answer_format="think_boxed") == (text, "stop")


@given(
    st.lists(st.one_of(st.sampled_from(["<solution>", "</solution>", "</think>", "<think>", "```", "\n"]), st.text()))
)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_back_is_a_part_of_the_reply_or_malformed(pieces: list[str]) -> None:
    reply = "".join(pieces)
    try:
        text, _ = parsed(reply)
    except MalformedReply:
        return
    assert text
    assert text in reply
    assert text == text.strip()
    assert "<solution>" not in text
    assert "</solution>" not in text


# The recipe.

SERVER = "negatives.prompted.server={url: http://a/v1}"
PROMPTED = "negatives.methods=[rejection, prompted]"
PRETRAINED = "model={kind: pretrained, path: somewhere}"


def recipe(*overrides: str) -> Recipe:
    return load_recipe(SMOKE, overrides)[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["negatives.prompted.writer=server"], "writer: server and negatives.prompted.server go together"),
        ([SERVER], "writer: server and negatives.prompted.server go together"),
        (["negatives.prompted.writer=model"], "needs model"),
        (["negatives.prompted.model=m"], "model says nothing to writer: policy"),
        (
            ["negatives.prompted.writer=model", "negatives.prompted.model=m", "negatives.prompted.max_calls=3"],
            "max_calls",
        ),
        (["negatives.prompted.writer=server", SERVER, "negatives.prompted.revision=x"], "revision says nothing"),
        (["negatives.prompted.style=beg"], "ask"),
        ([PROMPTED], "not applicable: the policy is a model from scratch"),
        (["negatives.methods=[mixture]", "negatives.mixture={prompted: 1}"], "name a model or a server"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(*overrides)


def test_who_may_write() -> None:
    assert recipe(PROMPTED, PRETRAINED).negatives.prompted.writer == "policy"
    other = recipe(PROMPTED, "negatives.prompted.writer=server", SERVER, "negatives.prompted.style=both")
    assert styles_of(other.negatives.prompted) == ("ask", "edit")
    assert (
        recipe(PROMPTED, "negatives.prompted.writer=model", "negatives.prompted.model=m").negatives.prompted.model
        == "m"
    )


def test_the_example_in_the_docs_is_a_recipe() -> None:
    text = (SMOKE.parents[1] / "docs" / "negatives.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "prompted:" in b)
    part = NegativesPart.model_validate(yaml.safe_load(block)["negatives"])
    assert (part.prompted.writer, part.prompted.model) == ("server", "my-large-model")


# Fingerprints.


def marks(*overrides: str) -> dict[str, str]:
    given = recipe(PROMPTED, *overrides)
    return fingerprints.of_stages(given, pipeline.stages(given))


def touched(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name] and name.startswith(("negatives-", "rollouts-"))}


BY_SERVER = ("negatives.prompted.writer=server", SERVER, "negatives.prompted.model=mine")


def test_how_a_server_is_reached_changes_no_negative_and_all_else_does() -> None:
    here = marks(*BY_SERVER)
    reach = (
        "max_calls=5",
        "max_total_tokens=900",
        "cache=null",
        "server={url: http://b/v1, concurrency: 2, retries: 0}",
    )
    assert marks(*BY_SERVER, *(f"negatives.prompted.{key}" for key in reach)) == here
    for key in (
        "n=2",
        "style=edit",
        "temperature=0.5",
        "top_p=0.9",
        "max_new_tokens=64",
        "model=other",
        "batch_size=8",
    ):
        assert touched(here, marks(*BY_SERVER, f"negatives.prompted.{key}")) == {"negatives-prompted"}
    by_model = marks("negatives.prompted.writer=model", "negatives.prompted.model=org/m")
    assert touched(here, by_model) == {"negatives-prompted"}
    assert touched(here, marks(*BY_SERVER, "negatives.gate_all=true")) == {"negatives-prompted", "negatives-rejection"}
    assert touched(here, marks(*BY_SERVER, "negatives.prefix.n=2")) == set()


@pytest.mark.parametrize("writer", [(PRETRAINED,), ("negatives.prompted.writer=model", "negatives.prompted.model=m")])
def test_the_engine_counts_where_it_writes(writer: tuple[str, ...]) -> None:
    def own(*overrides: str) -> pipeline.Stage:
        return pipeline.stages(recipe(PROMPTED, *overrides))["negatives-prompted"]

    def mark(*overrides: str) -> str:
        """Of the stage alone: the rollouts before it depend on the engine anyway."""
        return fingerprints.mark_of(own(*overrides), recipe(PROMPTED, *overrides).model_dump(mode="json"), {}, [])

    before = mark(*writer)
    assert mark(*writer, "engine.ray_workers=2") == before, "what changes no sample"
    for key in ("engine.kind=vllm", "engine.continuous_batching=true"):
        assert mark(*writer, key) != before
        assert mark(*BY_SERVER, key) == mark(*BY_SERVER), "a server of its own has nothing of the engine"
    without = replace(own(*writer), keys=tuple(key for key in own(*writer).keys if key != "engine"))
    data = recipe(PROMPTED, *writer).model_dump(mode="json")
    assert before == fingerprints.mark_of(without, data, {}, []), (
        "the default says nothing, as before there were others"
    )


def test_a_users_own_prompt_and_model_count_by_what_they_hold(tmp_path: Path) -> None:
    prompt, model = tmp_path / "mine.txt", tmp_path / "m"
    model.mkdir()
    weights = model / "model.safetensors"
    by_model = (
        f"negatives.prompted.model={model}",
        "negatives.prompted.writer=model",
        f"negatives.prompted.prompt={prompt}",
    )
    prompt.write_text("Err in {{ problem }}.")
    weights.write_text("one")
    before = marks(*by_model)
    for file, text in ((prompt, "Err soon in {{ problem }}."), (weights, "two")):
        file.write_text(text)
        after = marks(*by_model)
        assert touched(before, after) == {"negatives-prompted"}
        before = after
    prompt.write_text("Err.")
    with pytest.raises(UserError, match=r"mine\.txt: no \{\{ problem"):
        marks(*by_model)
    prompt.unlink()
    with pytest.raises(UserError, match="no prompt and no file"):
        marks(*by_model)
