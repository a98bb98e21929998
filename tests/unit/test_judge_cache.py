"""Verdicts on disk: what makes two questions the same, several processes, a file that is broken or not ours."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.judge_server import MARKS, Answer, ScriptedServer, verdict
from pns.errors import UserError
from pns.recipe import JudgeServerPart, ServerPart
from pns.records import Rubric
from pns.rewards.judge import ServerJudge
from pns.rewards.judge.cache import VerdictCache

SRC = Path(__file__).parents[2] / "src"
RUBRIC = Rubric(**MARKS)


def ask(scripted: ScriptedServer, cache: Path, *, texts: tuple[str, ...] = ("a",), **options: Any) -> ServerJudge:
    settings = {"server": ServerPart(url=scripted.url), "model": "m", "cache": cache, **options}
    with ServerJudge(JudgeServerPart(**settings)) as judge:
        found = judge.judge(["p"] * len(texts), texts, ["1"] * len(texts))
        assert [j.rubric for j in found] == [RUBRIC] * len(texts)
        assert all(j.text == verdict() for j in found)
    return judge


def test_a_verdict_is_asked_for_once(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "c.sqlite"
    with ScriptedServer() as server:
        assert ask(server, cache, texts=("a", "b")).counts["cache_hits"] == 0
        again = ask(server, cache, texts=("b", "a", "a"))
        assert (again.counts["cache_hits"], again.counts["calls"], again.counts["shared"]) == (2, 0, 1)
        assert (len(server.verdicts), len(server.probes)) == (2, 1)


def test_what_is_known_needs_no_server(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    with ScriptedServer() as server:
        ask(server, cache)
    assert ask(server, cache).counts["cache_hits"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"temperature": 0.5},
        {"max_tokens": 99},
        {"structured": "none"},
        {"texts": ("a ",)},
        {"prompt": "mine"},
    ],
)
def test_whatever_can_change_a_verdict_makes_another_question(tmp_path: Path, change: dict[str, Any]) -> None:
    cache, mine = tmp_path / "c.sqlite", tmp_path / "mine.txt"
    mine.write_text("{{ problem }}{{ response }}", encoding="utf-8")
    if "prompt" in change:
        change = {"prompt": str(mine)}
    with ScriptedServer() as server:
        ask(server, cache)
        assert ask(server, cache, **change).counts["cache_hits"] == 0
        assert ask(server, cache, **change).counts["cache_hits"] == 1
        assert ask(server, cache).counts["cache_hits"] == 1


def test_the_text_of_a_prompt_file_counts_not_its_name(tmp_path: Path) -> None:
    cache, one, two = tmp_path / "c.sqlite", tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("{{ problem }}{{ response }}", encoding="utf-8")
    two.write_text("{{ problem }}{{ response }}", encoding="utf-8")
    with ScriptedServer() as server:
        ask(server, cache, prompt=str(one))
        assert ask(server, cache, prompt=str(two)).counts["cache_hits"] == 1
        two.write_text("{{ problem }}{{ response }}.", encoding="utf-8")
        assert ask(server, cache, prompt=str(two)).counts["cache_hits"] == 0


def test_how_to_talk_to_the_server_does_not_count(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        ask(server, tmp_path / "c.sqlite")
        other = ServerPart(url=server.root, concurrency=2, timeout_seconds=9, retries=0)
        assert ask(server, tmp_path / "c.sqlite", server=other).counts["cache_hits"] == 1


def test_problem_response_and_answer_do_not_run_together(tmp_path: Path) -> None:
    rows = [("p", "a", "1"), ("pa", "", "1"), ("p", "a1", ""), ("p", "a1", None), ("", "pa", "1")]
    with ScriptedServer() as server:
        part = JudgeServerPart(server=ServerPart(url=server.url), model="m", cache=tmp_path / "c.sqlite")
        with ServerJudge(part) as judge:
            judge.judge(*zip(*rows, strict=True))
        assert len(server.verdicts) == len(rows)


def test_a_reply_that_somebody_changed_is_asked_for_again(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    with ScriptedServer() as server:
        ask(server, cache)
        with sqlite3.connect(cache) as connection:
            connection.execute("UPDATE verdicts SET reply = ?", (verdict(relevance=9),))
        connection.close()
        again = ask(server, cache)
        assert (again.counts["cache_hits"], again.counts["calls"], again.counts["cache_errors"]) == (0, 1, 1)
        assert ask(server, cache).counts["cache_hits"] == 1


def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are my notes, and not a data base.\n" * 40)
    with pytest.raises(UserError, match=r"notes\.txt.*no verdict cache"):
        VerdictCache(file)
    assert file.read_text().startswith("These are my notes")
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UserError, match="version 99"):
        VerdictCache(newer)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be opened"):
        VerdictCache(tmp_path / "file" / "c.sqlite")


def test_a_cache_that_cannot_be_written_loses_no_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "c.sqlite"
    with ScriptedServer() as server:
        part = JudgeServerPart(server=ServerPart(url=server.url), model="m", cache=cache)
        with ServerJudge(part) as judge:
            with sqlite3.connect(cache) as connection:
                connection.execute("DROP TABLE verdicts")
            connection.close()
            for text in ("a", "b"):
                assert judge.judge(["p"], [text], [None])[0].rubric == RUBRIC
        assert judge.counts["cache_errors"] == 4
    assert sum("verdict cache" in r.message for r in caplog.records) == 1


PROCESS = """
import sys
from pathlib import Path
from pns.rewards.judge.cache import VerdictCache
who = sys.argv[2]
cache = VerdictCache(Path(sys.argv[1]))
for i in range(40):
    cache.put(f"{who}-{i}", "x" * 500, "m")
    cache.put(f"same-{i}", who, "m")
    assert cache.get([f"{who}-{i}"])
cache.close()
"""


def test_several_processes_write_one_file(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    started = [subprocess.Popen([sys.executable, "-c", PROCESS, str(cache), who], env=env) for who in ("one", "two")]
    assert [p.wait(60) for p in started] == [0, 0]
    kept = VerdictCache(cache)
    assert len(kept.get(f"{who}-{i}" for who in ("one", "two", "same") for i in range(40))) == 120
    assert set(kept.get(["same-0"]).values()) <= {"one", "two"}
    kept.close()


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "c.sqlite")
    for i in range(0, 1200, 100):
        cache.put(str(i), "r", "m")
    assert len(cache.get(str(i) for i in range(1200))) == 12
    assert cache.get([]) == {}
    cache.close()


def test_a_killed_process_loses_at_most_what_is_under_way(tmp_path: Path) -> None:
    """Each verdict is on disk when the next one is asked for."""
    cache = tmp_path / "c.sqlite"
    seen: list[int] = []

    def script(n: int, request: Any) -> Answer:
        with sqlite3.connect(cache) as connection:
            seen.append(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])
        connection.close()
        return Answer()

    with ScriptedServer(script) as server:
        ask(server, cache, texts=("a", "b", "c"), server=ServerPart(url=server.url, concurrency=1))
    assert seen == [0, 1, 2]
