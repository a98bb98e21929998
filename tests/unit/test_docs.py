"""What the documents say holds: links lead somewhere, recipes in them are valid, commands exist, examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pns.cli import app
from pns.recipe import Part, RewardRecipe
from pns.records import Rubric
from pns.study.spec import AblationsPart, LimitPart, ObjectivePart, Study, SwitchPart, TuningPart

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
IDS = [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.findall(r"@[A-Z]{3,}@|\bTODO\b|\bTBD\b", page.read_text(encoding="utf-8"))


def test_the_page_of_studies_names_every_key() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8").partition("## The file")[2].partition("\n## ")[0]
    rows: dict[str, list[str]] = {}
    for keys, what in re.findall(r"^\| (`.+?) \| (.+) \|$", page, re.MULTILINE):
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", keys), re.findall(r"`(\w+)", what))
    assert set(rows) == set(Study.model_fields)
    parts_of: dict[str, list[type[Part]]] = {
        "tuning": [TuningPart], "objectives": [ObjectivePart], "limits": [LimitPart], "ablations": [AblationsPart, SwitchPart],
    }  # fmt: skip
    for key, parts in parts_of.items():
        assert {name for part in parts for name in part.model_fields} <= set(rows[key]), key


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_that_are_shown_exist(page: Path) -> None:
    known = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    known |= {group.name or "" for group in app.registered_groups}
    for line in re.findall(r"^ {4}pns ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert line in known, f"{page.name}: pns {line}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:tests|src|benchmarks|recipes|docs)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_files_that_help_and_messages_name_exist() -> None:
    """Also a study or recipe that a page names in a command."""
    texts = [*(ROOT / "src").rglob("*.py"), *PAGES, *ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("studies/*")]
    found = 0
    for file in texts:
        if file.is_file():
            for name in re.findall(
                r"(?<![\w./-])((?:recipes|studies|benchmarks)/[\w./-]+\.(?:yaml|sh|py))\b",
                file.read_text(encoding="utf-8"),
            ):
                assert (ROOT / name).exists(), f"{file.name}: {name}"
                found += 1
    assert found > 100


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_recipes_in_the_text_are_valid() -> None:
    found = [RewardRecipe.model_validate(yaml.safe_load(block)) for block in blocks("yaml")]
    assert len(found) == 2


def test_the_judge_in_the_text_runs() -> None:
    source = next(block for block in blocks("python") if "-> Rubric" in block)
    space: dict[str, object] = {}
    exec(compile(source, "bring-your-own.md", "exec"), space)
    judge = space["function"]
    assert callable(judge)
    assert judge("How many?", "One line", None) == Rubric(relevance=3, coherence=1, completeness=1, consistency=0)
