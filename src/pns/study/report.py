"""The report of a study: results.json, every sample as Parquet, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pns.report.study import build_study_page, reading
from pns.run import Run, write_json
from pns.study.cells import Recipes
from pns.study.collect import Collected, collect, selected
from pns.study.results import benchmarks, write_negatives, write_samples
from pns.study.run import finished


def write_report(recipes: Recipes, run: Run) -> tuple[dict[str, Any], Path]:
    """Write `report/{results.json, samples.parquet, negatives.parquet, index.html}` from the cells that are done.

    Returns:
        the results with their `reading` in words, and the page.

    Raises:
        UserError: tuning is not over, or no cell is done.
    """
    work, protocol, scored = finished(recipes, run)
    found = Collected(work, run, scored)
    results = collect(found, protocol)
    results["reading"] = reading(results)
    out = run.folder / "report"
    out.mkdir(exist_ok=True)
    write_json(out / "results.json", results)
    tasks = work.graph.tasks
    write_samples(
        (
            (cell, seed, run.published(tasks[name].label), benchmarks(run.published(tasks[tasks[name].needs["problems"]].label)))
            for (cell, seed), name in scored.items()
        ),
        out / "samples.parquet",
    )  # fmt: skip
    write_negatives(selected(found), out / "negatives.parquet")
    return results, build_study_page(results, out)
