"""A run on two machines by `pns run` and `pns join`: the second is lost in the middle of a training, and comes back."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from e2e.conftest import SMOKE, Command, Micro
from helpers.hosts import Host, two_hosts, why_not
from pns.training.common import METRICS

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
CONFIG = Path(__file__).parents[2] / "recipes" / "accelerate" / "two_cpus.yaml"
HOW = ("runtime.processes=2", "runtime.checkpoint_every=20", "--launcher", "accelerate")
ENOUGH = 25
"""Steps after which there is a checkpoint, and the training is far from its end."""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with two_hosts() as found:
        yield found


def on(pns: Command, host: Host, *args: str | Path) -> subprocess.Popen[str]:
    return pns.start(*args, env={"GLOO_SOCKET_IFNAME": host.line, "OMP_NUM_THREADS": "1"}, on=host.words())


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


def steps(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def test_a_second_machine_that_is_lost_costs_what_is_behind_the_last_checkpoint(
    smoke: Micro, pns: Command, hosts: tuple[Host, Host]
) -> None:
    """The very weights of two processes on one machine."""
    first, second = hosts
    told = yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | {"main_process_ip": first.address}
    config = pns.folder / "two.yaml"
    config.write_text(json.dumps(told), encoding="utf-8")
    far, near = (smoke.copy(pns.folder / name) for name in ("far", "near"))  # nothing of what is before SFT changes
    going_on = ("run", SMOKE, "--run-dir", far.folder, "--until", "sft", *HOW, "--launcher-config", config)
    joining = ("join", far.folder, "--launcher-config", config)
    work = far.folder / "stages" / f"{far.label('sft')}.work"

    driver, joined = on(pns, first, *going_on), on(pns, second, *joining)
    until(lambda: steps(work / METRICS) >= ENOUGH)
    joined.kill()
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 3, said
    assert "a process of the training was lost, perhaps for memory, or its machine (" in said
    assert "Traceback" not in said
    assert list(work.glob("checkpoints/checkpoint-*"))

    driver, joined = on(pns, first, *going_on), on(pns, second, *joining)
    said, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, said
    told_by_second, _ = joined.communicate(timeout=60)
    assert (joined.returncode, told_by_second) == (0, "sft: done\n")
    assert "train_runtime" in (far.folder / "logs" / "sft.machine-1.log").read_text(encoding="utf-8")

    pns("run", SMOKE, "--run-dir", near.folder, "--until", "sft", *HOW)
    one, other = (m.run.published(m.label("sft")) / "model" / "model.safetensors" for m in (near, far))
    assert one.read_bytes() == other.read_bytes()
