"""Negatives by each method, scored by the same composite; pairs in two regimes; the plausibility audit."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.evaluation.metrics import auc_with_ci
from pns.negatives.mixed import fill, mixture
from pns.negatives.rules import corruption, flip
from pns.negatives.select import build_pairs, draw, matched_ids, places
from pns.negatives.selection import likeness_of, select_to
from pns.negatives.yields import fully_consistent, yield_of
from pns.recipe import ALL_METHODS, GENERATED, Method
from pns.records import Pair, Response, read_parquet, write_parquet
from pns.rewards.composite import Composite
from pns.run import seed_of, write_json
from pns.stages import prefixes, prompted
from pns.stages.context import Context
from pns.stages.engines import scorer
from pns.stages.scored import rows_of, scored
from pns.streams import by_problem, read_responses

RULES = {"flip": flip, "corruption": corruption}
RULE_TRIES = 4
"""Draws of a rule for each negative that a problem may have, where that is more than one: it may find the same one again."""


def negatives(context: Context, method: Method) -> None:
    """All candidates of one method (candidates.parquet), and the selected ones a problem (negatives.parquet)."""
    if method in ("mixture", "fill"):
        _mixed(context, method)
        return
    if method in GENERATED:  # sampled and scored by a stage before, so that other gates need no new samples
        _select_samples(context, method)
        return
    with context.composite() as composite:
        if method in ("rejection", "rejection_hard"):
            candidates = scored(context, composite, _wrong_rollouts(context, composite, method))
        elif method == "prefix":
            candidates = scored(context, composite, prefixes.written(context, composite, method))
        elif method == "prompted":
            candidates = scored(context, composite, prompted.written(context))
        else:
            candidates = _by_rule(context, composite, method)
    write_parquet(context.out / "candidates.parquet", candidates)
    stats = _select(context, method, lambda: candidates)
    if method == "prompted":
        stats |= prompted.account(context, candidates)
    write_json(context.out / "stats.json", stats)


def _select_samples(context: Context, method: Method) -> None:
    samples = context.inputs[f"samples-{method}"] / "candidates.parquet"
    stats = _select(context, method, lambda: read_responses(samples))
    if method == "pns":  # of the other one only wrong continuations are kept, so there is no yield
        floor, least = context.calibration_of_m().quantile(0.25), context.recipe.negatives.min_rubric
        stats |= yield_of(lambda: read_responses(samples), floor=floor, min_rubric=least)
        others = context.recipe.generator.others
        for name, other in zip(context.recipe.generator.stages, (None, *others), strict=True) if others else ():
            stats.setdefault("generators", {})[name] = {
                "otherwise": {} if other is None else other.model_dump(exclude_none=True),
                **yield_of(partial(_by, name, samples), floor=floor, min_rubric=least),
                "selected": sum(1 for _ in _by(name, context.out / "negatives.parquet")),
            }
    write_json(context.out / "stats.json", stats)


def _by(generator: str, path: Path) -> Iterable[Response]:
    """The responses of one of several generators."""
    return (r for r in read_responses(path) if r.sampling.get("generator") == generator)


def _select(context: Context, method: Method, candidates: Callable[[], Iterable[Response]]) -> dict[str, Any]:
    """negatives.parquet from the candidates; what stats.json says of it."""
    part = context.recipe.negatives
    plausible = part.gated(method)
    floor = _m_floor(context) if plausible else None
    how = part.select if plausible else "reward" if method == "rejection_hard" else "random"
    seed = seed_of(context.recipe.seed, f"select/{method}")
    lengths = None
    if part.length_ratio is not None:
        right = context.chosen()
        lengths = {r.problem_id: r.n_tokens for r in right}
    like = None
    if how == "as_rejection":
        wanted = flat(_selected(context, "rejection"))
        if not wanted:
            raise UserError(
                "rejection has no negatives to be like", field="negatives.select",
                remedy="more rollouts (rollouts.n), or select: likely",
            )  # fmt: skip
        like = likeness_of(wanted, candidates(), context.out, part, floor, lengths)
    return dict(
        select_to(
            context.out / "negatives.parquet", candidates(), part, floor,
            plausible=plausible, how=how, seed=seed, lengths=lengths, like=like,
        )
    )  # fmt: skip


def _mixed(context: Context, method: Method) -> None:
    """Selected negatives of other methods, put together; stats.json counts where they came from."""
    part = context.recipe.negatives
    if method == "fill":
        chosen = fill({m: _selected(context, m) for m in ("rejection", "pns")}, part)
    else:
        weights: dict[str, float] = dict(part.mixture.items())
        found = {m: _selected(context, m) for m in weights}
        chosen = mixture(found, weights, part, seed_of(context.recipe.seed, "mixture"))
    rows = flat(chosen)
    write_parquet(context.out / "negatives.parquet", rows)
    sources = Counter(r.source for r in rows)
    write_json(context.out / "stats.json", {"problems_served": len(chosen), "sources": dict(sorted(sources.items()))})


def flat(selected: Mapping[str, Sequence[Response]]) -> list[Response]:
    """The selected negatives as rows, by problem, best first."""
    return [r for _, rows in sorted(selected.items()) for r in rows]


def _selected(context: Context, method: str) -> dict[str, list[Response]]:
    out: dict[str, list[Response]] = {}
    for r in read_parquet(context.inputs[f"negatives-{method}"] / "negatives.parquet", Response):
        out.setdefault(r.problem_id, []).append(r)
    return out


def _m_floor(context: Context) -> float | None:
    quantile = context.recipe.negatives.reward_model_quantile
    return None if quantile is None else context.calibration_of_m().quantile(quantile)


def _wrong_rollouts(context: Context, composite: Composite, method: Method) -> list[Response]:
    """The policy's wrong rollouts: all, or those that `rejection` needs (see `NegativesPart.drawn`), drawn by seed.

    Rollouts that no selection would take are not drawn: malformed ones, and texts that are there already.
    """
    # In an ablation another seed's policy may have written them.
    source = context.inputs.get("rollouts-foreign", context.inputs["rollouts-pairs"])
    rows = read_responses(source / "responses.parquet")
    wrong = (r.model_copy(update={"source": method}) for r in rows if r.verdict and r.verdict.outcome == "wrong")
    ordered = by_problem(wrong, context.out)
    part = context.recipe.negatives
    if method == "rejection_hard" or part.gate_all:
        return list(ordered)
    problems, most = rows_of(context), part.drawn(method)
    rng = random.Random(seed_of(context.recipe.seed, "rejection"))
    out: list[Response] = []
    for identity, found in groupby(ordered, key=lambda r: r.problem_id):
        fit = list(_distinct(r for r in found if not composite.failures(problems[identity], r.text, r.finish)))
        out += fit if most is None else rng.sample(fit, min(most, len(fit)))
    return out


def _distinct(rows: Iterable[Response]) -> Iterator[Response]:
    """The first of each text; the same words are one text, as in the selection."""
    seen = set[tuple[str, ...]]()
    for r in rows:
        if (words := tuple(r.text.split())) not in seen:
            seen.add(words)
            yield r


def _by_rule(context: Context, composite: Composite, method: Method) -> list[Response]:
    """From each chosen response that the rule can change as many candidates as a problem may have, where it finds so many."""
    reward, most = context.recipe.reward, context.recipe.negatives.per_problem
    top = context.json("problems", "summary.json")["largest_number"]
    problems, out = rows_of(context), []
    for right in context.chosen():
        rng = random.Random(seed_of(context.recipe.seed, f"{method}/{right.problem_id}"))
        tries = (
            RULES[method](right.text, rng, answer_format=reward.answer_format, top=top)
            for _ in range(1 if most == 1 else RULE_TRIES * most)
        )
        made = (Response(problem_id=right.problem_id, text=t, index=0, source=method) for t in tries if t is not None)
        out += [r.model_copy(update={"index": i}) for i, r in enumerate(islice(_distinct(made), most))]
    logps = scorer(context, "rlvr").log_probabilities(
        [problems[r.problem_id].problem for r in out], [r.text for r in out]
    )
    out = [r.model_copy(update={"policy_logp": lp, "n_tokens": n}) for r, (lp, n) in zip(out, logps, strict=True)]
    return scored(context, composite, out)


def load_negatives(context: Context) -> dict[str, dict[str, list[Response]]]:
    """Selected negatives of each method of the recipe, by problem."""
    return {m: _selected(context, m) for m in ALL_METHODS if m in context.recipe.negatives.methods}


def pairs(context: Context) -> None:
    """`<regime>-<method>.parquet` for each, and stats.json with coverage.

    Raises UserError when a method has fewer pairs than `pairs.min_pairs`.
    """
    recipe, problems = context.recipe, rows_of(context)
    right = context.chosen()
    chosen = {r.problem_id: r for r in right}
    found = load_negatives(context)
    seed = seed_of(recipe.seed, "pairs")
    most = recipe.pairs.n
    common = matched_ids(chosen, found, most, seed)
    # Matched: of each problem as many negatives as every method has.
    fewest = {i: min(len(rows[i]) for rows in found.values()) for i in common}
    stats: dict[str, Any] = {}
    for regime in recipe.pairs.regimes:
        for method, rows in found.items():
            ids = common if regime == "matched" else draw(set(rows) & set(chosen), most, seed)
            counts = fewest if regime == "matched" else {i: len(rows[i]) for i in ids}
            made = build_pairs(method, places(ids, counts, most), problems, chosen, rows)
            _enough(
                made, method, regime, recipe.pairs.min_pairs, {m: len(set(r) & set(chosen)) for m, r in found.items()}
            )
            write_parquet(context.out / f"{regime}-{method}.parquet", made)
            stats[f"{regime}-{method}"] = {"coverage": len(rows) / len(problems), **describe(made)}
    write_json(context.out / "stats.json", stats)


def _enough(made: Sequence[Pair], method: str, regime: str, least: int, served: Mapping[str, int]) -> None:
    if len(made) < least:
        counts = ", ".join(f"{m} {n}" for m, n in served.items())
        raise UserError(
            f"{len(made)} {regime} pairs for {method}, fewer than pairs.min_pairs={least} (problems served: {counts})",
            field="pairs.min_pairs",
            remedy="more problems (problems.splits.pairs), more samples (rollouts.n, negatives.sample.n), or a longer-trained generator",
        )


def describe(rows: Sequence[Pair]) -> dict[str, Any]:
    """Figures of a set of pairs that need no training: separation under the policy, lengths, repeats."""
    known = [
        (p.chosen_logp, p.rejected_logp, p) for p in rows if p.chosen_logp is not None and p.rejected_logp is not None
    ]
    n = max(1, len(known))
    per_token = [(c / max(1, p.chosen_tokens), r / max(1, p.rejected_tokens)) for c, r, p in known]
    return {
        "n": len(rows),
        "separated_before": sum(c > r for c, r, _ in known) / n,
        "separated_before_per_token": sum(c > r for c, r in per_token) / n,
        "chosen_logp": statistics.fmean(c for c, _, _ in known) if known else None,
        "rejected_logp": statistics.fmean(r for _, r, _ in known) if known else None,
        "rejected_logp_per_token": statistics.fmean(r for _, r in per_token) if known else None,
        "length_difference": statistics.fmean(p.rejected_tokens - p.chosen_tokens for p in rows) if rows else None,
        "duplicates": len(rows) - len({(p.prompt, p.rejected) for p in rows}),
        "distinct_answers": len({p.rejected_answer for p in rows}),
        "chosen_reference": sum(p.chosen_source == "reference" for p in rows),
    }


def audit(context: Context) -> None:
    """How well an audit model tells negatives from correct responses; it selected nothing and shares no problems.

    Each method's selected negatives against the chosen responses to the same problems. Beside it the AUC of length
    alone, the reward model's M, and the share of fully consistent steps: a weak detector also gives 0.5.
    """
    problems = rows_of(context)
    right = context.chosen()
    detector = context.reward_model(context.model("audit_model"))
    judge = context.reward_model(context.model("reward_model"))
    calibration = context.calibration()
    groups: dict[str, list[Response]] = {"correct": right}
    groups |= {m: flat(rows) for m, rows in load_negatives(context).items()}
    scores: dict[str, list[float]] = {}
    out: dict[str, Any] = {
        k: {} for k in ("reward_model", "heldout_auc", "heldout_auc_ci95", "length_auc", "fully_consistent", "scores")
    }
    for name, rows in groups.items():
        statements, texts = [problems[r.problem_id].problem for r in rows], [r.text for r in rows]
        scores[name] = detector.score(statements, texts)
        out["scores"][name] = scores[name][:500]
        raw = judge.score(statements, texts)
        out["reward_model"][name] = statistics.fmean(map(calibration.squash, raw)) if raw else None
        context.progress(len(out["scores"]), len(groups))
    lengths = {r.problem_id: r.n_tokens for r in right}
    correct = dict(zip((r.problem_id for r in right), scores["correct"], strict=True))
    for name, rows in list(groups.items())[1:]:
        found = [(r, score) for r, score in zip(rows, scores[name], strict=True) if r.problem_id in correct]
        if not found:
            continue
        both = [r for r, _ in found]
        positive = [correct[r.problem_id] for r in both]
        auc = auc_with_ci(positive, [score for _, score in found], seed=context.seed)
        out["heldout_auc"][name], out["heldout_auc_ci95"][name] = auc["auc"], list(auc["ci95"])
        by_length = auc_with_ci([lengths[r.problem_id] for r in both], [r.n_tokens for r in both], seed=context.seed)
        out["length_auc"][name] = by_length["auc"]
        out["fully_consistent"][name] = fully_consistent(rows)
    write_json(context.out / "audit.json", out)


def reward_scores(context: Context) -> None:
    """scores.json: the reward model's raw scores of the chosen responses and of each method's selected negatives."""
    problems = rows_of(context)
    model = context.reward_model(context.model("reward_model"))
    groups = {"correct": context.chosen()}
    groups |= {m: flat(rows) for m, rows in load_negatives(context).items()}
    out = {
        name: model.score([problems[r.problem_id].problem for r in rows], [r.text for r in rows])
        for name, rows in groups.items()
    }
    write_json(context.out / "scores.json", {name: [round(x, 4) for x in values] for name, values in out.items()})
