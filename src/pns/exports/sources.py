"""Preferences to export: of a finished run, or of anybody's file. (Source: ours.)"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pns.driver import check_current
from pns.errors import UserError
from pns.parts.negatives import REGIMES
from pns.records import Pair, Problem, Response, Scores, read_parquet
from pns.rows import KINDS, Row, column_names, message, missing_column, read_rows, text
from pns.run import Run, check_of_recipe
from pns.streams import read_responses

_USUAL = {"prompt": ("prompt", "problem", "question"), "chosen": ("chosen",), "rejected": ("rejected",)}
_METHOD = ("method", "source")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Preference:
    """A rejected response, and the chosen one where there is one. Bare texts: no chat template."""

    prompt: str
    rejected: str
    chosen: str | None = None


@dataclass(frozen=True)
class Exported:
    """What is to be written, in its order, and what a card says of it: facts by name.

    `same`: pairs that were left out because both sides are the same text.
    """

    rows: tuple[Preference, ...]
    facts: dict[str, str] = field(default_factory=dict)
    same: int = 0


def of_run(folder: Path, method: str | None, regime: str, *, negatives: bool) -> Exported:
    """One method's pairs of a run in one regime, or all its selected negatives without a chosen side.

    Args:
        method: None: `pns` where the run has it, else its only one.
    Raises UserError where the run has not come that far, or has no such method or regime.
    """
    run = open_run(folder)
    if negatives:
        found = run.stages.glob("[0-9]*-negatives-*/negatives.parquet")
        # A stage that still works, or is being replaced, has a suffix.
        made = {p.parent.name.partition("-negatives-")[2]: p for p in found if not p.parent.suffix}
        path = _one_of(made, method, folder, "negatives")
        check_current(run, path.parent.name.partition("-")[2])
        problems = {p.id: p.problem for p in run_problems(folder, "pairs")}
        responses = read_parquet(path, Response)
        rows = [Preference(problems[r.problem_id], r.text) for r in responses]
        facts, scores = _of_responses(responses), [r.scores for r in responses]
    else:
        check_regime(run, regime)
        made = pairs_there(run, regime)
        path = _one_of(made, method, folder, f"{regime} pairs")
        pairs = read_parquet(path, Pair)
        rows = [Preference(p.prompt, p.rejected, p.chosen) for p in pairs]
        facts, scores = {"regime": regime} | _of_pairs(pairs), [p.scores for p in pairs]
    chosen_method = next(name for name, place in made.items() if place == path)
    return _without_same(rows, _of_run(run, chosen_method, path) | facts | _of_scores(scores))


def pairs_of_run(folder: Path, regime: str | None) -> tuple[str, dict[str, list[Pair]]]:
    """(regime, method -> its pairs) of a finished run. None: matched pairs, or where the run has none, own ones.

    Raises UserError where the run has not come that far, or has no such regime.
    """
    run = open_run(folder)
    for name in (regime,) if regime is not None else ("matched", "own"):
        if made := pairs_there(run, name):
            return name, {method: read_parquet(path, Pair) for method, path in sorted(made.items())}
    raise UserError(
        f"this run has no {regime + ' ' if regime else ''}pairs", file=folder, field=None if regime is None else "--regime",
        remedy="finish the run, or choose a regime that its recipe makes (pairs.regimes)",
    )  # fmt: skip


def correct_rollouts(files: Iterable[Path]) -> dict[str, list[str]]:
    """Prompt -> distinct texts that were verified correct, of the rollouts from which stages of ours made these pairs.

    Which rollouts those are, is told by the digests in stage.json, so that a study may have many. A file that is in no stage
    of pairs has none, and no more has one whose rollouts are gone.

    Args:
        files: tables of pairs, of a run's or a study's stages or of anybody's.
    """
    prompts: dict[Path, dict[str, str]] = {}
    for file in files:
        stage = file.resolve().parent
        if file.suffix == ".parquet" and _state(stage).get("name") == "pairs":
            prompts.setdefault(stage, {}).update((p.problem_id, p.prompt) for p in read_parquet(file, Pair))
    out: dict[str, dict[str, None]] = {}
    for stage, asked in prompts.items():
        for path in _rollouts(stage):
            for r in read_responses(path):
                if r.problem_id in asked and r.verdict is not None and r.verdict.outcome == "correct":
                    out.setdefault(asked[r.problem_id], {})[r.text] = None
    return {prompt: list(texts) for prompt, texts in out.items()}


def _rollouts(stage: Path) -> list[Path]:
    """The files of rollouts that a stage of pairs was made from, as far as they are there."""
    inputs = _state(stage).get("inputs", {})
    wanted = {inputs.get(name) for name in ("rollouts-pairs", "rollouts-generator")} - {None}
    # A stage that still works, or is being replaced, has a suffix.
    found = sorted(p for p in stage.parent.glob("*rollouts-*/responses.parquet") if not p.parent.suffix)
    return [path for path in found if _state(path.parent).get("digest") in wanted]


def _state(stage: Path) -> dict[str, Any]:
    """stage.json of a stage's folder; empty for a folder of anything else."""
    try:
        found = json.loads((stage / "stage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("inputs"), dict) else {}


def check_regime(run: Run, regime: str) -> None:
    """Raises UserError where the run has pairs, but of the other regime alone: it is finished, and that is what to ask for."""
    there = [name for name in REGIMES if _pair_files(run, name)]
    if there and regime not in there:
        raise UserError(
            f"this run has {there[0]} pairs and no {regime} ones", file=run.folder, field="--regime",
            remedy=f"--regime {there[0]}",
        )  # fmt: skip


def pairs_there(run: Run, regime: str) -> dict[str, Path]:
    """method -> file of its pairs, none where there are none. Raises UserError where they are not of the run's recipe."""
    check_current(run, "pairs")
    return _pair_files(run, regime)


def _pair_files(run: Run, regime: str) -> dict[str, Path]:
    found = run.stages.glob(f"[0-9]*[0-9]-pairs/{regime}-*.parquet")
    return {path.stem.removeprefix(f"{regime}-"): path for path in found}


def open_run(folder: Path) -> Run:
    """A run of one recipe. Raises UserError where it is none, or that of a study."""
    check_of_recipe(
        folder,
        "name one of its tables: stages/s*-pairs-*/*.parquet has pairs, stages/s*-problems-*/*.parquet problems",
    )
    return Run.open(folder)


def run_problems(folder: Path, split: str) -> list[Problem]:
    """The problems of a split of a run. Raises UserError where it has no such split, or has not drawn any."""
    run = open_run(folder)
    check_current(run, "problems")
    there = {p.stem: p for p in run.stages.glob("[0-9]*-problems/*.parquet")}
    if split not in there:
        names = ", ".join(sorted(there)) or "none yet: run the problems stage"
        raise UserError(f"this run has no split {split!r}", file=folder, field="--split", remedy=f"there: {names}")
    return read_parquet(there[split], Problem)


def _one_of(made: dict[str, Path], method: str | None, folder: Path, what: str) -> Path:
    if method is None and ("pns" in made or len(made) == 1):
        return made.get("pns") or next(iter(made.values()))
    if method is not None and method in made:
        return made[method]
    there = ", ".join(sorted(made)) or "none yet: finish the run"
    missing = f"has no {what}" if method is None or not made else f"has no {what} of {method!r}"
    if method is None and made:
        missing = f"has {what} of several methods"
    raise UserError(f"this run {missing}", file=folder, field="--method", remedy=f"there: {there}")


def _of_run(run: Run, method: str, path: Path) -> dict[str, str]:
    from pns.recipe_files import load_recipe

    manifest = run.manifest()
    recipe = load_recipe(run.folder / "recipe.yaml")[0]
    facts = {
        "run": run.folder.resolve().name, "recipe": str(manifest.get("recipe", recipe.name)), "seed": str(recipe.seed),
        "made with": f"pns {manifest.get('versions', {}).get('pns', '?')}",
        "stage": f"{path.parent.name}, digest {_digest(run, path)}", "method": method,
        "gates": "; ".join(_gates(recipe, method)),
    }  # fmt: skip
    return facts


def _digest(run: Run, path: Path) -> str:
    return str((run.state(path.parent.name) or {}).get("digest", "?"))[:16]


def _gates(recipe: Any, method: str) -> Iterable[str]:
    """What a negative of this method had to pass, in words; see `negatives.select.accepted`."""
    from pns.rewards.reward_model import QUANTILES

    part, reward = recipe.negatives, recipe.reward
    yield f"well-formed ({reward.answer_format})"
    yield "answer decided wrong by the verifier"
    if part.gated(method):
        if part.reward_model_quantile is not None:
            # As `Calibration.quantile`: flat outside of what it stores.
            quantile = min(max(part.reward_model_quantile, QUANTILES[0]), QUANTILES[-1])
            yield f"M at least the {quantile:g} quantile of correct responses"
        if reward.judge != "none":
            yield f"judge ({reward.judge}) at least {part.min_rubric} of 12"
        yield f"selected by {part.select}"
    elif method in ("mixture", "fill"):
        yield "the further gates of the methods that they are drawn from"


def _of_pairs(pairs: Sequence[Pair]) -> dict[str, str]:
    origin = Counter(p.chosen_source for p in pairs)
    return {
        "problems": f"{len({p.problem_id for p in pairs}):,}",
        "chosen sides": ", ".join(f"{n:,} by the {name}" for name, n in origin.most_common())
        + "; answer verified correct",
    }


def _of_responses(rows: Sequence[Response]) -> dict[str, str]:
    origin = Counter(r.source for r in rows)
    return {
        "problems": f"{len({r.problem_id for r in rows}):,}",
        "written by": ", ".join(f"{name} {n:,}" for name, n in origin.most_common()),
    }


def _of_scores(scores: Sequence[Scores | None]) -> dict[str, str]:
    found: dict[str, list[float]] = {
        "mean score": [s.score for s in scores if s is not None and s.score is not None],
        "mean M": [s.reward_model for s in scores if s is not None and s.reward_model is not None],
        "mean judge's total": [s.rubric.total for s in scores if s is not None and s.rubric is not None],
    }
    return {name: f"{statistics.fmean(values):.3g} (n = {len(values):,})" for name, values in found.items() if values}


def of_file(path: Path, columns: dict[str, str | None], method: str | None) -> Exported:
    """The pairs, or rejected responses alone, of a file. Sides are texts, or conversations of one question and one answer.

    Args:
        columns: of prompt, chosen and rejected; None: the first of its usual names that is there.
        method: only rows whose `method` (or `source`) is this.
    Raises UserError: as `read_rows`; a column that is not there; a blank text; a conversation of another shape, for
        nothing of it may be lost; no row of that method.
    Unless a method is asked for, its column is nothing but a fact for the card, and whatever it holds is no error.
    """
    there = column_names(path)
    names: dict[str, str | None] = {}
    for part, usual in _USUAL.items():
        given = columns.get(part)
        if given is not None and given not in there:
            raise missing_column(given, there, path, option=f"--{part}")
        names[part] = given or next((name for name in usual if name in there), None)
    if names["rejected"] is None:
        raise missing_column("rejected", there, path, option="--rejected")
    kind = next((name for name in _METHOD if name in there), None)
    if method is not None and kind is None:
        raise missing_column("method", there, path, option="--method")
    needed = [name for name in names.values() if name is not None]
    if kind is not None and (method is not None or _holds_text(path, kind)):
        needed.append(kind)
    rows, methods = [], Counter[str]()
    for row in read_rows(path, needed):
        value = _method(row, kind, strict=method is not None)
        methods[value] += 1
        if method in (None, value):
            rows.append(_preference(row, names))
    if not rows:
        shown = ", ".join(name[:40] for name, _ in methods.most_common(10))
        raise UserError(f"no row has the method {method!r}", file=path, field="--method", remedy=f"there: {shown}")
    facts = {"file": path.name} | _of_methods(kind or "", methods if method is None else Counter({method: len(rows)}))
    return _without_same(rows, facts | {"gates": "not known: the file does not say them"})


def _holds_text(path: Path, column: str) -> bool:
    """Whether the schema of a Parquet file says so, where only the columns that are asked for are read."""
    if KINDS[path.suffix.casefold()] != "parquet":
        return False
    import pyarrow.parquet as pq

    return str(pq.read_schema(path).field(column).type) in {"string", "large_string"}


def _method(row: Row, column: str | None, *, strict: bool) -> str:
    """The method of a row; "" where it is not known, which `strict` allows for a blank alone."""
    if column is None:
        return ""
    if strict:
        return text(row, column) or ""
    value = row.values.get(column)
    return value if isinstance(value, str) else ""


def _of_methods(column: str, methods: Counter[str]) -> dict[str, str]:
    """Which they are, the most frequent ones, if every row says so."""
    if "" in methods:
        return {}
    more = len(methods) - _SHOWN
    shown = ", ".join(name[:100] for name, _ in methods.most_common(_SHOWN))
    return {column: shown + (f", and {more:,} more" if more > 0 else "")}


def _preference(row: Row, names: dict[str, str | None]) -> Preference:
    asked = None if names["prompt"] is None else _question(row, names["prompt"])
    assert names["rejected"] is not None
    sides = {}
    for part in ("rejected", "chosen"):
        column = names[part]
        if column is None:
            continue
        said, answer = _answer(row, column)
        if said is not None and asked is not None and said != asked:
            raise row.error("answers another prompt than the row's", column, "give each row one prompt")
        asked = asked if said is None else said
        sides[part] = answer
    if asked is None or not asked.strip():
        raise row.error("the prompt is missing", names["prompt"] or names["rejected"], "name its column: --prompt")
    return Preference(asked, sides["rejected"], sides.get("chosen"))


_SHAPE = "write the question as one user message and the answer as one assistant message"


def _question(row: Row, column: str) -> str | None:
    """The prompt: text, or a conversation that is one message of the user."""
    if _roles(row, column) not in (None, ["user"]):
        raise row.error("more than one user message", column, _SHAPE)
    return message(row, column, "user")


def _answer(row: Row, column: str) -> tuple[str | None, str]:
    """The prompt of a side where the side holds it, and its answer."""
    roles = _roles(row, column)
    if roles not in (None, ["assistant"], ["user", "assistant"]):
        raise row.error("more than one question and one answer", column, _SHAPE)
    answer = message(row, column, "assistant")
    if answer is None or not answer.strip():
        raise row.error("missing", column, "fill it, or remove the row")
    return message(row, column, "user") if roles == ["user", "assistant"] else None, answer


def _roles(row: Row, column: str) -> list[Any] | None:
    """The roles of a conversation; None for text."""
    value = row.values[column]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return None
    return [turn.get("role") for turn in value]


def _without_same(rows: Sequence[Preference], facts: dict[str, str]) -> Exported:
    """Both sides the same: nothing is preferred."""
    kept = tuple(row for row in rows if row.chosen != row.rejected)
    return Exported(kept, facts, len(rows) - len(kept))
