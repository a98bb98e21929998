"""The worker pool: algebra, limits, crashes, and where it may be started from."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pns.records import Problem, Verdict
from pns.verify import CheckPool, Verifier
from pns.verify.pool import Item

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(cpu_seconds=2.0) as v:
        yield v


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        (r"\sqrt{2}", "2^{1/2}", "correct"),
        (r"\sqrt{2}", r"\frac{2}{\sqrt{2}}", "correct"),
        (r"\sqrt{2}", "2", "wrong"),
        (r"\sqrt{2}", "1.414", "undecided"),
        (r"\sqrt{2}", "1.414214", "undecided"),
        ("5", "5 apples", "correct"),
        ("5", r"\text{five}", "undecided"),
        ("11", "5 6", "undecided"),
        ("11", "5\\ 6", "undecided"),
        (r"\frac{\pi}{2}", r"\frac\pi 2", "correct"),
        (r"\{2, 3\}", r"2 \text{ and } 3", "correct"),
        ("(1,2)", "(1,3)", "wrong"),
        ("x^2+2x+1", "(x+1)^2", "correct"),
        ("Yes", "No", "wrong"),
    ],
)
def test_algebra(verifier: Verifier, gold: str, answer: str, outcome: str) -> None:
    verdict = verifier.check([gold], [answer])[0]
    assert verdict.outcome == outcome
    assert verdict.cause == ("response" if outcome == "undecided" else None)


def test_verify_extracts_and_names_the_reason(verifier: Verifier) -> None:
    verdicts = verifier.verify(["14"] * 4, [r"\boxed{14}", r"\boxed{15}", r"\boxed{14} \boxed{", "14"])
    assert [v.outcome for v in verdicts] == ["correct", "wrong", "undecided", "undecided"]
    assert verdicts[2].reason == "the last \\boxed{ is not closed"
    assert {v.cause for v in verdicts[2:]} == {"response"}


def test_gold_that_nothing_can_be_held_against(verifier: Verifier) -> None:
    golds = ("5", r"\sqrt{2}", "3:30 p.m.", "Sara", "", "t(0,4]", r"\frac{dM}{dt}=L_{\odot}")
    assert [verifier.decidable(g) for g in golds] == [True, True, True, True, False, False, False]
    assert verifier.check(["t(0,4]"], ["3"])[0].cause == "gold"


def test_nothing_starts_before_it_is_needed() -> None:
    with Verifier() as v:
        assert v.verify(["5", "5"], [r"\boxed{5}", r"\boxed{6}"])[1].outcome == "wrong"
        assert v.pool.pids == []


def test_a_hostile_answer_costs_only_itself() -> None:
    with CheckPool(workers=1, cpu_seconds=1.0) as pool:
        items = [Item("2x", "x+x"), Item("5", "9^{9^{9^9}}"), Item(r"\sqrt{2}", "2^{1/2}")]
        verdicts = pool.run(items)
    assert [v.outcome for v in verdicts] == ["correct", "undecided", "correct"]
    assert verdicts[1].cause == "response"
    assert "CPU" in verdicts[1].reason or "raised" in verdicts[1].reason


def test_a_hostile_gold_is_not_the_responses_fault() -> None:
    with CheckPool(workers=1, cpu_seconds=1.0) as pool:
        verdict = pool.run([Item("9^{9^{9^9}}", "x")])[0]
    assert verdict.outcome == "undecided"
    assert verdict.cause in ("gold", "system")  # by time or by memory, whichever it meets first


def test_memory_is_bounded() -> None:
    with CheckPool(workers=1, cpu_seconds=20.0, memory_mb=600) as pool:
        verdict = pool.run([Item("x", "10^{10^{10}} + x")])[0]
    assert (verdict.outcome, verdict.cause) == ("undecided", "response")


def test_a_killed_worker_loses_its_item_only() -> None:
    with CheckPool(workers=1, cpu_seconds=30.0) as pool:
        assert pool.run([Item("2x", "x+x")])[0].outcome == "correct"
        [pid] = pool.pids
        results: list[str | None] = []
        thread = threading.Thread(
            target=lambda: results.extend(v.cause for v in pool.run([Item("5", "9^{9^{9^9}}"), Item("2x", "3x-x")]))
        )
        thread.start()
        process = psutil.Process(pid)
        begin = process.cpu_times().user
        while process.cpu_times().user < begin + 0.3:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        thread.join(60)
        assert results == ["system", None]
        assert pool.pids != [pid]


def test_a_worker_that_died_between_checks_is_replaced() -> None:
    with CheckPool(workers=1) as pool:
        pool.run([Item("2x", "x+x")])
        [pid] = pool.pids
        os.kill(pid, signal.SIGKILL)
        while pool.pids:
            time.sleep(0.01)
        assert pool.run([Item("2x", "3x-x")])[0].outcome == "correct"


def test_closing_ends_the_workers_and_is_final() -> None:
    pool = CheckPool()
    pool.run([Item("2x", "x+x")])
    [pid] = pool.pids
    pool.close()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ValueError, match="closed"):
        pool.run([Item("x", "y")])


def test_many_threads_share_one_worker(verifier: Verifier) -> None:
    out: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: out.append(verifier.check(["2x"], [f"{i + 3}x-{i + 1}x"])[0].outcome))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out == ["correct"] * 6


def test_it_works_from_an_event_loop(verifier: Verifier) -> None:
    """Checks that need algebra, side by side, while the loop goes on with other work."""
    problems = [Problem(id=str(i), problem="?", answer=f"{i}x") for i in range(2, 6)]

    async def work() -> tuple[list[list[Verdict]], int]:
        ticks = 0
        checks = asyncio.gather(*(verifier.averify([p], [rf"\boxed{{x+{int(p.id) - 1}x}}"]) for p in problems))
        while not checks.done():
            ticks += 1
            await asyncio.sleep(0.001)
        return await checks, ticks

    verdicts, ticks = asyncio.run(work())
    assert [v.outcome for [v] in verdicts] == ["correct"] * 4
    assert ticks > 1


PLAIN_SCRIPT = """
from pns.verify import Verifier
v = Verifier()
print(v.check(["2x"], ["x+x"])[0].outcome, v.pool.pids[0], flush=True)
"""


def test_a_script_without_a_main_guard_works_and_leaves_nobody_behind(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(PLAIN_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.stdout.split()[:1] == ["correct"], done.stderr
    _gone(int(done.stdout.split()[1]))


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(PLAIN_SCRIPT + "import time; time.sleep(600)\n")
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": SOURCE}
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _gone(worker)


def _gone(pid: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        # an orphan that nobody reaps is gone too
        if (
            Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        ):
            return
        time.sleep(0.05)
    pytest.fail(f"worker {pid} is still there")


def test_imports_stay_light() -> None:
    code = textwrap.dedent("""
        import sys, pns.verify, pns.rewards, pns.rewards.adapters.trl
        print([m for m in ("torch", "transformers", "trl", "sympy", "math_verify") if m in sys.modules])
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
        check=True,
    )
    assert done.stdout.strip() == "[]"
