"""The one flow: which stage needs which, and what of the recipe it depends on. Nothing else knows the order.

Heavy libraries are imported by the stages themselves, in the process that runs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pns.errors import UserError
from pns.parts.negatives import RULED
from pns.recipe import ALL_METHODS, GENERATED, REFERENCES, Recipe

# Keys that a stage's samples and verdicts depend on wherever a verifier or a model runs.
VERIFY = ("reward.answer_format", "reward.cpu_seconds", "runtime.device", "runtime.threads")
_FORM = ("reward.answer_format", "reward.max_chars")
_RUN = ("runtime.device", "runtime.threads")
TRAIN = (*_RUN, "runtime.processes", "runtime.train_dtype")
"""What every training depends on besides its part."""
GRPO = ("runtime.processes", "runtime.vllm", "runtime.train_dtype", "runtime.sampler")
"""What a GRPO training depends on besides."""
SAMPLE = "engine"
"""What of a recipe changes samples besides."""
_RUN_ITSELF = ("name", "about", "seed", "round", "runtime", "references")
"""What is read wherever no stage names it."""


@dataclass(frozen=True)
class Stage:
    """One node of the flow.

    Attributes:
        call: dotted path `module:function` under pns.stages, called with the context and `args`.
        needs: names of the stages whose results it reads.
        keys: dotted recipe keys (a whole part, or a leaf) that its result depends on; the seed always counts.
        version: raised when the meaning of its result changes.
    """

    name: str
    call: str
    needs: tuple[str, ...]
    keys: tuple[str, ...]
    args: tuple[str, ...] = ()
    version: int = 1


def stages(recipe: Recipe) -> dict[str, Stage]:
    """All stages of a recipe, by name: each after those it needs, the longest chain first, for ready stages start in this order."""
    methods, regimes = recipe.negatives.methods, recipe.pairs.regimes
    nodes = [
        # From files, version 2 leaves out what overlaps with a benchmark in long runs of words, too.
        Stage(
            "problems",
            "data:make_problems",
            (),
            ("problems", *VERIFY),
            version=1 if recipe.problems.source == "embedded" else 2,
        ),
        Stage("start", "policy:make_start", (), ("model", "runtime.device")),
        *_bases(recipe),
        Stage("sft", "policy:sft", ("problems", "start"), ("sft", *TRAIN)),
        Stage("rlvr", "policy:rlvr", ("problems", "sft"), ("rlvr", *GRPO, *VERIFY, *_FORM)),
        _rollouts("reward"),
        _rollouts("pairs", "pairs.chosen", *_FORM),
        _reward_model(recipe, "reward_model", "reward"),
        *_generator(recipe),
        _rollouts("audit"),
        _reward_model(recipe, "audit_model", "audit"),
        *(_negatives(recipe, m) for m in recipe.negatives.sources()),
        Stage(
            "pairs",
            "negatives:pairs",
            ("problems", *chosen_needs(recipe), *(f"negatives-{m}" for m in methods)),
            ("pairs", "negatives.methods"),
        ),
        *_references(recipe),
        Stage(
            "audit",
            "negatives:audit",
            ("problems", *chosen_needs(recipe), "audit_model", "reward_model", *(f"negatives-{m}" for m in methods)),
            ("negatives.methods", *_RUN),
        ),
    ]
    models = {"policy": "rlvr", "sft": "sft", "sft_chosen": "align-sft_chosen"}
    models |= {name: name for name in REFERENCES if name in recipe.references}
    nodes.append(
        Stage(
            "align-sft_chosen",
            "align:sft_chosen",
            ("rlvr", "pairs"),
            ("align", "pairs.regimes", *TRAIN),
            version=2 if recipe.align.cut else 1,  # it refused what was to be cut
        )
    )
    for regime in regimes:
        for m in methods:
            name = f"align-{m}-{regime}"
            models[m if regime == regimes[0] else f"{m}-own"] = name
            nodes.append(Stage(name, "align:align", ("rlvr", "pairs"), ("align", *TRAIN), args=(m, regime), version=2))
    for label, stage in models.items():
        nodes.append(
            Stage(
                f"evaluate-{label}", "evaluate:evaluate", ("problems", stage), scoring_keys(), args=(stage,), version=2
            )
        )
    every = tuple(n.name for n in nodes if not n.name.startswith(("start", "rollouts")))
    nodes.append(Stage("report", "summary:summarise", every, ("evaluate.bootstrap", "report", "name", "pairs.regimes")))
    return {n.name: n for n in nodes}


def scoring_keys() -> tuple[str, ...]:
    """What a model's measured accuracy depends on, besides the model and the problems."""
    return ("evaluate.k", "evaluate.k_of", "evaluate.max_new_tokens", "evaluate.batch_size", SAMPLE, *VERIFY)


def _negatives(recipe: Recipe, method: str) -> Stage:
    call, name = "negatives:negatives", f"negatives-{method}"
    if method in ("mixture", "fill"):
        drawn = recipe.negatives.mixture if method == "mixture" else ("rejection", "pns")
        needs = tuple(f"negatives-{m}" for m in ALL_METHODS if m in drawn)
        keys = (
            "negatives.per_problem",
            "negatives.near_duplicate",
            *(["negatives.mixture"] if method == "mixture" else []),
        )
        return Stage(name, call, needs, keys, args=(method,))
    if method in GENERATED:
        keys = (*_selection_keys(recipe, method), "reward.calibrated")
        needs = (*_from_chosen(recipe, method), "reward_model", f"samples-{method}")
        needs += ("negatives-rejection",) if recipe.negatives.select == "as_rejection" else ()
        return Stage(name, call, needs, keys, args=(method,), version=3 if _other_model(recipe) else 2)
    needs = ("problems", "rlvr", *_from_chosen(recipe, method), "reward_model")
    keys = (*_selection_keys(recipe, method), "reward", *_RUN)
    return Stage(name, call, needs, keys, args=(method,), version=_version(recipe, method))


def chosen_needs(recipe: Recipe) -> tuple[str, ...]:
    """The stages that have the policy's rollouts and the chosen responses of `pairs`."""
    return ("rollouts-pairs", *(["rollouts-generator"] if recipe.pairs.chosen_by == "generator" else []))


def _from_chosen(recipe: Recipe, method: str) -> tuple[str, ...]:
    """`chosen_needs` of a method whose negatives are made from chosen responses, or measured by their lengths."""
    reads = method in ("prefix", "prompted", *RULED) or recipe.negatives.length_ratio is not None
    return chosen_needs(recipe) if reads else ("rollouts-pairs",)


def _other_model(recipe: Recipe) -> bool:
    """Whether M comes from a model that the recipe names: the M gate's floor was that of the run's own model before."""
    return recipe.reward.reward_model is not None


def _version(recipe: Recipe, method: str) -> int:
    """2 or 3 where results are others than they once were: by the M gate (see `_other_model`); and `rejection` draws from the
    well-formed, distinct ones where it does not gate them all; and rules change decimals, numbers below 0 and solutions with
    steps of other forms, which no model from scratch writes for embedded problems; corruption once more, with results below 0; and both
    give as many candidates as a problem may have.
    """
    if method in RULED:
        if recipe.negatives.per_problem > 1:
            return 4
        plain = recipe.problems.source == "embedded" and recipe.model.kind == "scratch"
        return 1 if plain else 2 if method == "flip" else 3
    gated = recipe.negatives.gate_all
    if method == "rejection":
        return 2 if not gated or _other_model(recipe) else 1
    return 2 if method == "prompted" and gated and _other_model(recipe) else 1


def _rollouts(split: str, *extra: str) -> Stage:
    keys = ("rollouts", SAMPLE, *VERIFY, *extra)
    return Stage(f"rollouts-{split}", "policy:rollouts", ("problems", "rlvr"), keys, args=(split,))


def _bases(recipe: Recipe) -> list[Stage]:
    """Other pretrained models than the policy that trainings start from, brought into the form of the policy's start."""
    given = {"generator": recipe.generator.base, "reward_model": recipe.reward_model.base}
    if not recipe.trains_generator:
        given.pop("generator")
    return [
        Stage(
            f"start-{part}",
            "policy:make_base",
            (),
            (f"{part}.base", "model.system_prompt", "runtime.device"),
            args=(part,),
        )
        for part, base in given.items()
        if base is not None
    ]


def _reward_model(recipe: Recipe, name: str, split: str) -> Stage:
    base = () if recipe.reward_model.base is None else ("start-reward_model",)
    needs = ("problems", "rlvr", f"rollouts-{split}", *base)
    keys = ("reward_model", "rollouts.n", "problems.source", *TRAIN)
    return Stage(name, "models:reward_model", needs, keys, args=(split,))


def _generator(recipe: Recipe) -> list[Stage]:
    if not recipe.trains_generator:
        return []
    keys = ("reward", *_RUN)
    needs = ("problems", "rlvr", "reward_model", "generator")
    how = ("generator", *(() if recipe.generator.control is None else ("rlvr.format_weight",)), *GRPO, *keys)
    trained = []
    for place, name in enumerate(recipe.generator.stages):
        start = recipe.generator.of(name).start_stage
        read = ("problems", *dict.fromkeys(("rlvr", start)), "reward_model")
        own = (f"generator.others.{place - 1}",) if place else ()
        trained.append(Stage(name, "models:generator", read, (*how, *own), args=(name,) if place else ()))
    every = (*needs, *recipe.generator.stages[1:])
    samples = {
        "pns": Stage("samples-pns", "samples:samples", every, ("negatives.sample", SAMPLE, *keys), version=2),
        "pns_prefix": Stage(
            "samples-pns_prefix",
            "samples:prefix_samples",
            (*needs, *chosen_needs(recipe)),
            ("negatives.prefix", SAMPLE, *keys),
        ),
    }
    drawn = [samples[m] for m in GENERATED if m in recipe.negatives.sources()]
    if recipe.pairs.chosen_by == "generator":
        solved = _rollouts("pairs", "pairs.chosen", *_FORM)
        solved = replace(
            solved, name="rollouts-generator", needs=(*solved.needs, "generator"), args=("pairs", "generator")
        )
        drawn.insert(0, solved)
    return [*trained, *drawn]


def _references(recipe: Recipe) -> list[Stage]:
    """The whole-method references; the order in which the recipe names them changes nothing."""
    needs = ("problems", "rlvr")
    # A reward model that the recipe names cost no rollouts here; the run's own did.
    learnt = ("problems.splits.reward", "rollouts.n") if "reward" in recipe.splits_of_pns else ()
    solved = ("pairs.chosen_by", "rollouts.n") if recipe.pairs.chosen_by == "generator" else ()
    pns = ("generator", "generator.others", "problems.splits.pairs", "negatives.sample.n")
    keys = (*pns, "rlvr", *dict.fromkeys((*learnt, *solved)), *GRPO, *VERIFY, *_FORM)
    nsr = (*keys, "reinforce.learning_rate")
    nodes = [
        Stage("rlvr_more", "policy:rlvr_more", needs, keys),
        Stage("nsr", "policy:reinforce", needs, nsr, args=("nsr",)),
        Stage("w_reinforce", "policy:reinforce", needs, (*nsr, "reinforce.positive_weight"), args=("w_reinforce",)),
    ]
    return [node for node in nodes if node.name in recipe.references]


def _selection_keys(recipe: Recipe, method: str) -> tuple[str, ...]:
    """What one method's negatives depend on, so that a changed PNS threshold does not make rejection run again."""
    # A prompted writer behind a server of its own has nothing of the engine.
    by_engine = () if recipe.negatives.prompted.writer == "server" else (SAMPLE,)
    gates = tuple(f"negatives.{k}" for k in ("reward_model_quantile", "min_rubric", "select"))
    # Where not all pass the gates, these methods do not read them.
    given = ("negatives.gate_all", *(gates if recipe.negatives.gate_all else ()))
    every = ("negatives.per_problem", "negatives.near_duplicate", "negatives.length_ratio")
    own = {
        "pns": gates,
        "prefix": ("negatives.prefix", SAMPLE),
        "pns_prefix": gates,
        "prompted": ("negatives.prompted", *by_engine, *given),
        "rejection": given,
    }
    return (*own.get(method, ()), *every)


def unread(keys: Iterable[str], nodes: Mapping[str, Stage]) -> list[str]:
    """Of dotted recipe keys those that no stage's result depends on, nor how the run is done: to set them changes nothing."""
    read = {*_RUN_ITSELF, *(key for node in nodes.values() for key in node.keys)}
    return [
        key for key in keys if not any(f"{key}.".startswith(f"{r}.") or f"{r}.".startswith(f"{key}.") for r in read)
    ]


def labels(nodes: Mapping[str, Stage]) -> dict[str, str]:
    """Folder name of each stage: its number in the flow, and its name."""
    return {name: f"{i:02d}-{name}" for i, name in enumerate(nodes, 1)}


def resolve(names: Iterable[str], nodes: Mapping[str, Stage]) -> list[str]:
    """Stage names from what a user wrote: a name, or a group such as `align` for `align-*`. Raises UserError."""
    import difflib

    out: list[str] = []
    for name in names:
        # With a stage those that are counted from it: `generator-2`, ...
        same = [n for n in nodes if n == name or (n.startswith(f"{name}-") and n[len(name) + 1 :].isdigit())]
        found = same or [n for n in nodes if n.startswith(f"{name}-")]
        if not found:
            groups = sorted({n.split("-")[0] for n in nodes} | set(nodes))
            near = difflib.get_close_matches(name, groups, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            known = ", ".join(dict.fromkeys(n.split("-")[0] for n in nodes))
            raise UserError(f"no stage called {name!r}", remedy=f"{hint}Stages: {known}")
        out += found
    return list(dict.fromkeys(out))


def wanted(nodes: Mapping[str, Stage], until: Iterable[str] = (), only: Iterable[str] = ()) -> set[str]:
    """The stages that are asked for: some alone, or all up to some of them. Raises UserError as `resolve`."""
    alone, last = resolve(only, nodes), resolve(until, nodes)
    return set(alone) or (upstream(last, nodes) if last else set(nodes))


def upstream(names: Iterable[str], nodes: Mapping[str, Stage]) -> set[str]:
    """These stages and all that they need."""
    todo, out = list(names), set[str]()
    while todo:
        name = todo.pop()
        if name not in out:
            out.add(name)
            todo += nodes[name].needs
    return out


def downstream(names: Iterable[str], nodes: Mapping[str, Stage]) -> set[str]:
    """These stages and all that depend on them."""
    out = set(names)
    for name, stage in nodes.items():
        if any(n in out for n in stage.needs):
            out.add(name)
    return out


def call(stage: Stage, context: Any) -> None:
    """Run a stage's function in this process."""
    module, _, function = stage.call.partition(":")
    getattr(importlib.import_module(f"pns.stages.{module}"), function)(context, *stage.args)
