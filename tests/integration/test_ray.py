"""Inside Ray, where verl and OpenRLHF call rewards: verdicts of algebra, and an abort that really stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

ray = pytest.importorskip("ray")

PROBLEM = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 to Tom. How many now?"
WRONG = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    root = Path(__file__).parents[2]
    paths = f"{root / 'src'}:{root / 'tests'}"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()


def verdicts() -> tuple[list[str], int]:
    """Outcomes that need algebra, and the process that computed them."""
    from pns.verify import Verifier

    with Verifier(cpu_seconds=2.0) as verifier:
        golds = ["5", r"\sqrt{2}", r"\sqrt{2}", "x^2-1"]  # the first ends its worker, the second starts another
        found = verifier.check(golds, ["9^{9^{9^9}}", r"\frac{2}{\sqrt 2}", r"\sqrt{3}", "(x-1)(x+1)"])
        return [v.outcome for v in found], verifier.pool.pids[0]


def test_algebra_in_a_task_leaves_no_process(cluster: None) -> None:
    found, worker = ray.get(ray.remote(verdicts).remote())
    assert found == ["undecided", "correct", "wrong", "correct"]
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE


class Engine:
    """Calls a reward as OpenRLHF's executor and verl's reward loop do: an asynchronous actor."""

    def __init__(self, env: dict[str, str]) -> None:
        import os

        os.environ.update(env)

    async def openrlhf(self, n: int) -> list[Any]:
        from pns.rewards.adapters.openrlhf import reward_func

        async def one() -> Any:
            prompt = f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
            label = {"answer": "14", "problem": PROBLEM}
            try:
                found = await asyncio.to_thread(reward_func, [f"{prompt}{WRONG}<|im_end|>"], [prompt], [label])
                return found["rewards"].item()
            except Exception:  # as OpenRLHF does, which then takes another reward
                return None

        return await asyncio.gather(*(one() for _ in range(n)))

    async def verl(self, n: int) -> list[float]:
        from pns.rewards.adapters.verl import compute_score

        async def one() -> float:
            return (await compute_score("math", WRONG, "14", {"question": PROBLEM}))["score"]

        return await asyncio.gather(*(one() for _ in range(n)))


def engine(folder: Path, judge: str, **env: str) -> Any:
    recipe = folder / "reward.yaml"
    recipe.write_text(f"reward: {{judge: '{judge}'}}\n")
    return ray.remote(Engine).options(max_concurrency=8).remote({"PNS_REWARD_RECIPE": str(recipe), **env})


@pytest.mark.parametrize("face", ["openrlhf", "verl"])
def test_scores_in_an_actor(cluster: None, tmp_path: Path, face: str) -> None:
    actor = engine(tmp_path, "steps")
    assert ray.get(getattr(actor, face).remote(5)) == [pytest.approx(0.8)] * 5
    ray.kill(actor)


@pytest.mark.parametrize("face", ["openrlhf", "verl"])
def test_an_abort_reaches_the_driver(cluster: None, tmp_path: Path, face: str) -> None:
    """Also past a caller that catches every Exception."""
    actor = engine(tmp_path, "helpers.reward:down")
    with pytest.raises(ray.exceptions.RayTaskError, match="judge is down"):
        ray.get(getattr(actor, face).remote(3))
    ray.kill(actor)
    actor = engine(tmp_path, "helpers.reward:down", PNS_ON_UNSCORED="-0.5")
    assert ray.get(getattr(actor, face).remote(3)) == [-0.5] * 3
    ray.kill(actor)
