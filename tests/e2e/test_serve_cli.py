"""`pns serve-reward`: comes up, serves, goes down in order; bad input ends with exit code 2."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from e2e.conftest import Command

pytestmark = pytest.mark.e2e

RECIPE = Path(__file__).parents[2] / "recipes" / "reward.yaml"
SRC = Path(__file__).parents[2] / "src"
ROW = {
    "problem": "Mia has 12 apples and finds 5. How many now?",
    "answer": "17",
    "response": "12 + 5 = 18. So \\boxed{18}.",
}


def address(process: subprocess.Popen[str]) -> str:
    """Where it serves, as its first line says."""
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://\S+", line)
    assert match, line
    with httpx2.Client() as client:
        for _ in range(600):
            try:
                if client.get(f"{match[0]}/health").status_code == 200:
                    return match[0]
            except httpx2.ConnectError:
                time.sleep(0.05)
    raise AssertionError("it did not come up")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_goes_down(pns: Command, how: signal.Signals) -> None:
    process = pns.start("serve-reward", RECIPE, "--port", "0", "--token-env", "PNS_TOKEN", env={"PNS_TOKEN": "abc"})
    root = address(process)
    with httpx2.Client(headers={"Authorization": "Bearer abc"}) as client:
        reply = client.post(f"{root}/score", json={"responses": [ROW]})
        assert (reply.status_code, reply.json()["scores"][0]["gate"]) == (200, "scored")
    assert httpx2.post(f"{root}/score", json={"responses": [ROW]}).status_code == 401
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    assert process.returncode == (0 if how == signal.SIGINT else -signal.SIGTERM)


SLOW = """
import time
from pathlib import Path

from pns.records import Rubric


def judge(problem, response, answer):
    Path("asked").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return Rubric(relevance=1, coherence=2, completeness=3, consistency=3)
"""
CLIENT = """
import json, sys
import httpx2

reply = httpx2.post(sys.argv[1] + "/score", json={"responses": [json.loads(sys.argv[2])]}, timeout=60)
print(reply.status_code, reply.json()["scores"][0]["rubric"]["relevance"])
"""


def test_a_request_under_way_is_finished(pns: Command) -> None:
    """A judge that takes its time: the signal comes while it works, and the client still gets its score."""
    (pns.folder / "slow.py").write_text(SLOW)
    paths = os.pathsep.join([str(SRC), str(pns.folder)])
    process = pns.start("serve-reward", RECIPE, "reward.judge=slow:judge", "--port", "0", env={"PYTHONPATH": paths})
    root = address(process)
    client = subprocess.Popen([sys.executable, "-c", CLIENT, root, json.dumps(ROW)], stdout=subprocess.PIPE, text=True)
    while not (pns.folder / "asked").exists():
        assert process.poll() is None
        assert client.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    (pns.folder / "go").touch()
    said, _ = client.communicate(timeout=60)
    assert said == "200 1\n"
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["missing.yaml"], "missing.yaml: no such recipe"),
        ([str(RECIPE), "reward.judg=none"], "did you mean `reward.judge`"),
        ([str(RECIPE), "--token-env", "PNS_NO_SUCH"], "PNS_NO_SUCH is not set"),
        ([str(RECIPE), "--host", "no.such.host.invalid"], "--host: 'no.such.host.invalid' is no address"),
        ([str(RECIPE), "reward.judge=no.module:f"], "cannot load 'no.module:f'"),
    ],
)
def test_bad_input(pns: Command, args: list[str], words: str) -> None:
    output = pns("serve-reward", *args, "--port", "0", code=2)
    assert words in output
    assert "Traceback" not in output


def test_a_port_that_is_taken(pns: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        output = pns("serve-reward", RECIPE, "--port", str(taken.getsockname()[1]), code=2)
    assert "--port: cannot listen at 127.0.0.1" in output
    assert "--port 0" in output


def test_an_open_address_without_a_token_is_warned_about(pns: Command) -> None:
    process = pns.start("serve-reward", RECIPE, "--port", "0", "--host", "0.0.0.0")
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    process.kill()
    process.wait()
    assert "serving reward at http://0.0.0.0:" in first
    assert "--token-env" in second
