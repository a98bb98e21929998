"""What `pns score` prints, and the same as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pns.commands.tables import compared, entry, printable, real, share, shares, titled
from pns.evaluation.metrics import quartiles
from pns.recipe import RewardPart
from pns.tally import Group, Row, ScoreTally, mean_of

LISTED = 10
GATES = ("malformed", "undecided", "correct", "scored")


def score_tables(tally: ScoreTally, part: RewardPart, *, all_terms: bool, reward_model: bool) -> list[Table | Text]:
    """Gates and pay, the terms, causes, calls saved, and the rows worth a look."""
    groups = tally.ordered()
    out: list[Table | Text] = [_gates(groups, part, reward_model)]
    if any(group.rubric_total or group.m for group in groups.values()):
        out.append(_terms(groups, all_terms))
        out += [_auc(name, found) for name, found in tally.aucs().items()]
    if tally.everything.failures:
        out.append(_causes("why malformed (a response may fail several)", groups, "failures"))
    if tally.everything.undecided:
        out.append(_causes("why undecided", groups, "undecided"))
    out += _hints(tally, part)
    out.append(Text(_saved(tally, part, reward_model)))
    out += _listed("labelled correct, and paid", tally.paid_correct.rows, tally.paid_correct.count)
    out += _listed("labelled correct, and charged", tally.charged_correct.rows, tally.charged_correct.count)
    out += _listed("unscored", tally.unscored.rows, tally.unscored.count)
    best = tally.best
    out += _listed("paid most" + (", among those not labelled correct" if tally.labelled else ""), best, len(best))
    return out


def summary(tally: ScoreTally, output: str) -> dict[str, Any]:
    """The same figures, JSON-able; shares as counts, scores in reward units."""
    return {
        "output": output,
        "groups": {name.replace(" ", "_"): _group(group) for name, group in tally.ordered().items()},
        "auc": {name: {**found, "ci95": list(found["ci95"])} for name, found in tally.aucs().items()},
        "labelled_correct_and_paid": tally.paid_correct.count,
        "labelled_correct_and_charged": tally.charged_correct.count,
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "responses": group.rows, "gates": {gate: group.gates[gate] for gate in (*GATES, "unscored")},
        "unscored": dict(group.unscored), "malformed": dict(group.failures), "undecided": dict(group.undecided),
        "paid": len(group.paid), "problems_paid": len(group.paid_of), "problems_paid_is_least": group.paid_of.full,
        "mean_score": group.mean,
        "paid_quartiles": quartiles(group.paid.kept), "c_mean": _c(group), "c_count": group.rubric_total.total(),
        "nothing_to_check": group.nothing_to_check, "m_quartiles": quartiles(group.m.kept), "m_count": len(group.m),
        "raw_quartiles": quartiles(group.raw.kept),
    }  # fmt: skip


def _gates(groups: dict[str, Group], part: RewardPart, reward_model: bool) -> Table:
    table = shares("what the reward pays", ["gate", "score", *groups])
    best = part.weight_inversion + (part.weight_judge if part.judge != "none" else 0)
    best += part.weight_reward_model if reward_model else 0
    pays = (f"{part.malformed:g}", f"{part.malformed:g}", "0", f"{part.weight_inversion:g} .. {best:g}")
    for gate, pay, style in zip(GATES, pays, ("yellow", "yellow", "green", "red"), strict=True):
        name = "wrong: scored" if gate == "scored" else gate
        table.add_row(Text(name, style=style), pay, *(share(g.gates[gate], g.rows) for g in groups.values()))
    for cause in sorted({cause for group in groups.values() for cause in group.unscored}):
        cells = (share(g.unscored[cause], g.rows) for g in groups.values())
        table.add_row(Text(f"unscored: {cause}", style="magenta"), "none", *cells)
    table.add_section()
    every = list(groups.values())
    table.add_row("responses", "", *(str(g.rows) for g in every))
    table.add_row("mean score", "", *(real(g.mean) for g in every))
    table.add_row("paid (above 0)", "", *(share(len(g.paid), g.rows) for g in every))
    table.add_row("  quartiles", "", *(_spread(g.paid.kept) for g in every))
    table.add_row("  of problems", "", *(str(g.paid_of) for g in every))
    table.add_row("  most of one", "", *(str(g.paid_of.most) for g in every))
    return table


def _terms(groups: dict[str, Group], all_terms: bool) -> Table:
    what = "every response" if all_terms else "what the gates left; --all-terms: every response"
    table = shares(f"the terms of {what}", ["term", *groups])
    every = list(groups.values())
    table.add_row("responses with C", *(str(g.rubric_total.total()) for g in every))
    if any(g.nothing_to_check for g in every):
        table.add_row("  nothing to check: C = 0", *(share(g.nothing_to_check, g.rubric_total.total()) for g in every))
    table.add_row("C, 0..1, mean", *(real(_c(g)) for g in every))
    table.add_row("C at or above 9/12", *(_nines(g.rubric_total) for g in every))
    for name in every[0].rubric:
        table.add_row(f"  {name}, 0..3", *(real(mean_of(g.rubric[name]), 2) for g in every))
    if any(g.m for g in every):
        table.add_row("M, 0..1, quartiles", *(_spread(g.m.kept) for g in every))
        table.add_row("raw score, quartiles", *(_spread(g.raw.kept) for g in every))
    return table


def _c(group: Group) -> float | None:
    mean = mean_of(group.rubric_total)
    return None if mean is None else mean / 12


def _auc(term: str, found: Any) -> Text:
    low, high = found["ci95"]
    return Text(
        f"AUC of {term}: {found['auc']:.3f} [{low:.3f}, {high:.3f}] that a response labelled correct has more of it "
        f"than one labelled wrong ({found['n_positive']} and {found['n_negative']}; 95 % over problems)"
    )


def _hints(tally: ScoreTally, part: RewardPart) -> list[Text]:
    none = tally.everything.failures["no_answer"]
    if 2 * none < tally.everything.rows:
        return []
    return [
        Text(
            f"{none} of {tally.everything.rows} responses have no answer in the format {part.answer_format!r}: is "
            "reward.answer_format right? (boxed, gsm8k, answer_tag, think_boxed)",
            style="yellow",
        )
    ]


def _nines(counts: Counter[int]) -> str:
    return share(sum(n for total, n in counts.items() if total >= 9), counts.total())


def _causes(title: str, groups: dict[str, Group], what: str) -> Table:
    table = shares(title, ["cause", *groups])
    for cause, _ in getattr(groups["all"], what).most_common(12):
        table.add_row(printable(cause, 80), *(str(getattr(g, what)[cause]) for g in groups.values()))
    return table


def _saved(tally: ScoreTally, part: RewardPart, reward_model: bool) -> str:
    rows, malformed = tally.everything.rows, tally.everything.gates["malformed"]
    said = [f"verifier {malformed} of {rows}"]
    if part.judge != "none":
        said.append(f"judge {rows - tally.asked} of {rows}")
    if reward_model:
        said.append(f"reward model {rows - tally.asked} of {rows}")
    return f"calls saved by the gates: {', '.join(said)}"


def _listed(title: str, rows: Sequence[Row], count: int) -> list[Table | Text]:
    shown = rows[:LISTED]
    if not shown:
        return []
    out: list[Table | Text] = [Text(titled(title, len(shown), count), style="italic")]
    for row in shown:
        verdict = row["verdict"] or {}
        why = row["unscored_cause"] or ", ".join(row["format_failures"] or ()) or verdict.get("reason") or ""
        said = [row["gate"]] if row["score"] is None else [f"{row['score']:.3f}", row["gate"]]
        said += [] if row["rubric"] is None else [f"C {sum(row['rubric'].values())}/12"]
        said += [] if row["reward_model"] is None else [f"M {row['reward_model']:.3f}"]
        out.append(entry(row, said))
        out.append(compared(row["gold"], verdict.get("answer"), why))
    return out


def _spread(values: Sequence[float]) -> str:
    found = quartiles(values)
    return "" if found is None else " ".join(f"{value:.2f}" for value in found)
