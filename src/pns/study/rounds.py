"""Iterated PNS (ours): the generator is trained against the policy as it stands, the policy is aligned, and so on.

A round: rollouts of the current policy; the reward model, from the second round on refreshed with the last round's
negatives as hard examples; the generator by reverse RL against both; its negatives; preference training. Every round
has fresh problems (`round` of the recipe). The stages are those of a run: only whose results they read is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pns.pipeline import Stage
from pns.recipe import SHARED_AMONG_ROUNDS, Method, Recipe
from pns.study.graph import HARDENED, OWN_SFT, Graph, nodes_of, sft_stage
from pns.study.spec import with_settings

IteratedMethod = Literal["pns", "rejection", "sft_chosen", "sft_pns"]
"""What a round can be made of: negatives that are sampled anew from the policy as it stands; or the control of such a
method, which sees the chosen side of its pairs alone: `sft_chosen` of rejection's, `sft_pns` of pns's."""
_CONTROLS: dict[IteratedMethod, tuple[Method, str]] = {
    "sft_chosen": ("rejection", OWN_SFT),
    "sft_pns": ("pns", sft_stage("pns")),
}
"""control -> whose pairs it has, and the stage that trains on their chosen side."""


def negatives_of(method: IteratedMethod) -> Method:
    """Whose pairs the rounds of a method are trained on."""
    if method in _CONTROLS:
        return _CONTROLS[method][0]
    return "pns" if method == "pns" else "rejection"


def aligned_by(method: IteratedMethod) -> str:
    """The stage that trains the policy in a round of a method."""
    return _CONTROLS[method][1] if method in _CONTROLS else f"align-{method}-own"


def for_rounds(recipe: Recipe, rounds: int, method: IteratedMethod) -> Recipe:
    """The recipe of a whole iteration: its sizes are those of one round, and there is one method, on all it serves."""
    splits = {f"problems.splits.{s}": getattr(recipe.problems.splits, s) * rounds for s in SHARED_AMONG_ROUNDS}
    return with_settings(
        recipe,
        {
            **splits,
            "negatives.methods": (negatives_of(method),),
            "negatives.mixture": {},
            "pairs.regimes": ("own",),
            "references": (),
        },
    )


def add_rounds(
    graph: Graph, recipe: Recipe, rounds: int, method: IteratedMethod, *, kinds: tuple[str, ...] = ("test",)
) -> list[dict[str, str]]:
    """Add an iteration to the graph.

    Args:
        recipe: of `for_rounds`.
        kinds: `test` for the benchmarks, `dev` for the development split.

    Returns:
        for each round, from 0 (the policy that it begins with) on: stage name -> task of what the report reads.
    """
    policy = graph.add(recipe, "rlvr")
    out = [{kind: graph.add(recipe, f"{kind}-rlvr") for kind in kinds}]
    aligned = aligned_by(method)
    whose = negatives_of(method)
    made = ("reward_model", *(("generator",) if whose == "pns" else ()), f"negatives-{whose}", "pairs")
    last: dict[str, str] = {}
    for number in range(1, rounds + 1):
        mine = with_settings(recipe, {"round": {"number": number, "of": rounds}})
        given = {"rlvr": policy} | ({"hard": last["pairs"], "before": last["reward_model"]} if last else {})
        nodes = _refreshing(mine) if last else nodes_of(mine)
        last = {n: graph.add(mine, n, nodes=nodes, given=given, prefix=f"r{number}-") for n in (*made, aligned)}
        policy = last[aligned]
        first = {"rlvr": graph.add(recipe, "rlvr"), aligned: policy}
        scored = {
            kind: graph.add(mine, f"{kind}-{aligned}", nodes=nodes, given=first, prefix=f"r{number}-") for kind in kinds
        }
        out.append({**last, **scored})
    return out


def _refreshing(recipe: Recipe) -> Mapping[str, Stage]:
    """The stages of a round after the first."""
    nodes = nodes_of(recipe)
    plain = nodes["reward_model"]
    args = ("reward", "hard", "before", "own-*")
    nodes["reward_model"] = replace(plain, call=HARDENED, needs=(*plain.needs, "hard", "before"), args=args)
    return nodes
