"""Sampling from scripted servers: order, seeds, replicas, failures; which model a server has; servers that pns starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.judge_server import Answer, Request, ScriptedServer
from pns.errors import StageStopped, UserError
from pns.parts.base import SamplePart
from pns.parts.engine import EngineServerPart
from pns.records import Problem
from pns.rewards.judge import client
from pns.run import seed_of
from pns.sampling import server as ours
from pns.sampling.jobs import Job
from pns.sampling.server import ServerEngine
from pns.sampling.servers import Servers
from pns.sampling.shards import Draw, sample

HOW: dict[str, Any] = {"n": 2, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12, "seed": 4}
SOURCE = Path(__file__).parents[2] / "src"


class Tokenizer:
    """One token a letter. `begin`: what it puts before a text."""

    chat_template, bos_token, bos_token_id = "x", "^", ord("^")

    def __init__(self, begin: str = "", template: str = "U{}A") -> None:
        self.begin, self.template = begin, template

    def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
        return self.template.format(messages[0]["content"])

    def __call__(self, texts: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": self([texts], add_special_tokens)["input_ids"][0]}
        return {"input_ids": [[ord(c) for c in (self.begin if add_special_tokens else "") + text] for text in texts]}


Make = Callable[..., ServerEngine]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Makes engines over scripted servers with short waits, and ends them."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.002)
    made: list[ServerEngine] = []

    def engine(*servers: ScriptedServer, tokenizer: Tokenizer | None = None, **options: Any) -> ServerEngine:
        monkeypatch.setattr(ours, "load_tokenizer", lambda path: tokenizer or Tokenizer())
        given = {"served_model": {"rlvr": "m"}, **options}
        made.append(
            ServerEngine(tmp_path / "model", EngineServerPart(urls=tuple(s.url for s in servers), **given), "rlvr")
        )
        return made[-1]

    yield engine
    for one in made:
        one.close()
    assert not [t for t in threading.enumerate() if t.name == "pns-engine"]


def completion(text: Any, finish: Any = "stop", **how: Any) -> Answer:
    usage = how.pop("usage", {"prompt_tokens": 3, "completion_tokens": 7})
    return Answer(body={"choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": usage}, **how)


def echo(n: int, request: Request) -> Answer:
    return completion(f"{request.prompt}#{request.body['seed']}", wait=0.01 * (n % 3))


def serving(script: Any = echo) -> ScriptedServer:
    return ScriptedServer(script, models=("m",))


def test_completions_come_in_order_each_with_its_seed(make: Make) -> None:
    with serving() as server:
        found = make(server).generate(Job(["p", "q", "r"], prefixes=["x", "y", "z"], **HOW))
    expected = [
        [(f"U{p}A{x}#{seed_of(4, f'problem/{i}/{k}')}", 7, "stop") for k in range(2)]
        for i, (p, x) in enumerate(zip("pqr", "xyz", strict=True))
    ]
    assert found == expected
    assert {r.path for r in server.requests if r.body} == {"/v1/completions"}
    body = next(r.body for r in server.requests if r.body)
    assert {k: v for k, v in body.items() if k not in ("prompt", "seed")} == {
        "model": "m", "max_tokens": 12, "temperature": 0.7, "top_p": 0.9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "sent"),
    [
        ("vllm", {"prompt": [85, 112, 65], "top_k": 0, "skip_special_tokens": False, "min_p": 0.05}),
        ("sglang", {"prompt": [85, 112, 65], "top_k": -1}),
        ("llama.cpp", {"prompt": [85, 112, 65], "top_k": 0, "repeat_penalty": 1.0}),
        ("transformers", {"prompt": "UpA", "generation_config": '{"do_sample": true, "top_k": 0}'}),
    ],
)
def test_each_server_is_told_not_to_cut_the_distribution(make: Make, dialect: str, sent: dict[str, Any]) -> None:
    with serving() as server:
        make(server, dialect=dialect, extra={"min_p": 0.05}).generate(Job(["p"], **HOW))
    body = next(r.body for r in server.requests if r.body)
    assert sent.items() <= body.items()
    assert body["min_p"] == 0.05  # the user's own word is the last


def test_greedy_asks_transformers_for_no_sampling(make: Make) -> None:
    with serving() as server:
        make(server, dialect="transformers").generate(Job(["p"], **{**HOW, "n": 1, "temperature": 0.0}))
    assert "generation_config" not in next(r.body for r in server.requests if r.body)


@pytest.mark.parametrize(
    ("usage", "finish", "n"),
    [({"completion_tokens": 12}, "length", 12), ({"completion_tokens": 13}, "stop", 4), (None, "stop", 4), ("x", "length", 3),
     ({"completion_tokens": True}, "stop", 4), ({"completion_tokens": -1}, "stop", 4)],
)  # fmt: skip
def test_tokens_are_the_servers_where_that_can_be(make: Make, usage: Any, finish: Any, n: int) -> None:
    with serving(lambda i, r: completion("abc", finish, usage=usage)) as server:
        assert make(server).generate(Job(["p"], **{**HOW, "n": 1})) == [[("abc", n, finish)]]


def test_the_least_busy_replica_is_asked_and_none_has_more_than_its_share(make: Make) -> None:
    with (
        serving(lambda n, r: completion("a", wait=0.03)) as one,
        serving(lambda n, r: completion("b", wait=0.03)) as two,
    ):
        found = make(one, two, concurrency=3).generate(Job(["p"] * 15, **HOW))
    assert {c.text for ones in found for c in ones} == {"a", "b"}
    assert one.peak <= 3
    assert two.peak <= 3
    assert min(len(one.verdicts), len(two.verdicts)) >= 9


def test_a_dead_replica_costs_nothing_but_time(make: Make) -> None:
    with serving() as live, serving(lambda n, r: Answer(drop=True)) as dead:
        found = make(dead, live, retries=2).generate(Job([str(i) for i in range(20)], **HOW))
        assert [len(ones) for ones in found] == [2] * 20
        assert len(live.verdicts) == 40
        # Once it has failed, it is asked last.
        assert len(dead.verdicts) <= 30


def test_the_wait_for_a_place_at_a_replica_is_not_the_time_of_a_request(make: Make) -> None:
    """With one of two dead, its share of the requests waits at the living one: longer than a request may take."""
    with (
        serving(lambda n, r: completion("a", wait=0.6)) as live,
        serving(lambda n, r: Answer(status=503)) as dead,
    ):
        engine = make(live, dead, concurrency=4, timeout_seconds=1.0, retries=2)
        found = engine.generate(Job([str(i) for i in range(12)], **{**HOW, "n": 1}))
    assert found == [[("a", 7, "stop")]] * 12
    assert live.peak == 4
    assert len(live.verdicts) == 12, "none was given up and asked again"


def test_a_hiccup_of_the_last_live_replica_sends_nothing_to_the_dead_one(make: Make) -> None:
    """The dead one has failed first, then the live one once: both rest, and the next tries are the live one's."""
    with (
        serving(lambda n, r: Answer(status=503) if n == 4 else echo(n, r)) as live,
        serving(lambda n, r: Answer(drop=True)) as dead,
    ):
        engine = make(dead, live, retries=2, concurrency=1)
        found = engine.generate(Job([str(i) for i in range(20)], **HOW))
    assert [len(ones) for ones in found] == [2] * 20
    assert len(live.verdicts) == 41
    assert len(dead.verdicts) <= 3


def test_one_that_refuses_rests_whatever_it_still_ends(make: Make) -> None:
    """Its refusals are quicker than any answer, so it would be the least busy; what it took before ends all the while."""
    lock, at_work = threading.Lock(), [0]

    def full(n: int, request: Request) -> Answer:
        with lock:
            at_work[0] += 1
            mine = at_work[0]
        if mine > 2:
            with lock:
                at_work[0] -= 1
            return Answer(status=503)
        time.sleep(0.05)
        with lock:
            at_work[0] -= 1
        return echo(n, request)

    with serving(full) as busy, serving(lambda n, r: completion("a", wait=0.02)) as free:
        found = make(busy, free, retries=2, concurrency=8).generate(Job([str(i) for i in range(60)], **HOW))
    assert [len(ones) for ones in found] == [2] * 60
    # Of the first sixteen eight are its, and it takes two of them.
    assert len(busy.verdicts) <= 10


def test_what_a_busy_server_refuses_is_asked_again(make: Make) -> None:
    with serving(lambda n, r: Answer(status=503) if n < 2 else echo(n, r)) as server:
        assert len(make(server).generate(Job(["p"], **HOW))[0]) == 2
    assert len(server.verdicts) == 4


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Answer(status=500), StageStopped, "HTTP 500"),
        (Answer(drop=True), StageStopped, "connection broke"),
        (
            Answer(body={"error": {"message": "too long"}}, status=400),
            UserError,
            "refuses a request: HTTP 400: too long",
        ),
        (Answer(body={"choices": []}), StageStopped, "no completion with one choice"),
        (completion(None), StageStopped, "ended with 'stop'"),
        (completion("a", "content_filter"), StageStopped, "content_filter"),
        (completion("a", None), StageStopped, "None"),
        (Answer(body=[]), StageStopped, "no completion"),
        (Answer(body=b"<html>"), StageStopped, "no JSON"),
    ],
)
def test_a_shard_is_whole_or_the_stage_stops(make: Make, answer: Answer, error: type[Exception], words: str) -> None:
    with serving(lambda n, r: answer if r.prompt == "UbadA" else echo(n, r)) as server:
        with pytest.raises(error, match=words):
            make(server, retries=1).generate(Job(["p", "bad", "q"], **HOW))


def jobs(n: int, **how: Any) -> list[Job]:
    """Of one problem each."""
    return [Job([f"p{i}"], **{**HOW, "seed": i, **how}) for i in range(n)]


def test_several_jobs_keep_the_places_busy_while_one_completion_is_waited_for(make: Make) -> None:
    """The first completion is there only when the fifth job is asked for, and the sixth waits for the first."""
    fifth, told = threading.Event(), list[bool]()

    def seen(n: int, request: Request) -> Answer:
        if request.prompt == "Up4A":
            fifth.set()
        return echo(n, request)

    def script(n: int, request: Request) -> Answer:
        if n == 0:
            told.append(fifth.wait(20))
        return seen(n, request)

    with serving(script) as one, serving(seen) as other:
        engine = make(one, other, concurrency=2)
        found = engine.generate_all(jobs(9))
        assert next(found)[0] == 0
        assert (told, one.peak) == ([True], 2)
        assert not {"Up5A", "Up6A"} & {r.prompt for server in (one, other) for r in server.verdicts}, "bounded"
        rest = dict(found)
    with serving() as alone:
        each = {i: make(alone).generate(job) for i, job in enumerate(jobs(9))}
    assert list(rest) == list(range(1, 9))
    assert rest == {i: drawn for i, drawn in each.items() if i}, "what each of them gives by itself"


def test_how_many_jobs_are_under_way() -> None:
    def most(size: int, places: int) -> int:
        return next(n for n in range(1, 99) if ours._enough([Job(["p"] * size, **{**HOW, "n": 1})] * n, places))

    assert [most(256, 64), most(256, 512), most(2048, 512), most(1, 512)] == [2, 5, 2, 32]


def test_shards_are_durable_in_order_and_a_resume_gives_the_same(make: Make, tmp_path: Path) -> None:
    problems = [Problem(id=f"p{i}", problem=f"p{i}", answer="1") for i in range(9)]

    def drawn(name: str, engine: ServerEngine) -> Draw:
        draw = Draw(problems, SamplePart(n=2, batch_size=2, max_new_tokens=12), tmp_path / name, 5, "t")
        sample(nullcontext(engine), [draw], lambda _, rows: rows, lambda *_: None)
        return draw

    refused = Answer(body={"error": {"message": "too long"}}, status=400)
    with serving() as server, serving(lambda n, r: refused if r.prompt == "Up4A" else echo(n, r)) as bad:
        whole = drawn("whole", make(server))
        with pytest.raises(UserError, match="too long"):
            drawn("part", make(bad, concurrency=8))
        assert [p.stem for p in sorted((tmp_path / "part").iterdir())] == [f"{i:05d}" for i in range(4)]
        server.requests.clear()
        part = drawn("part", make(server))
    assert len(server.verdicts) == 2 * 5, "those that are there are not asked for again"
    for one, other in zip(whole.finished(), part.finished(), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_is_under_way_ends_with_the_first_failure(make: Make) -> None:
    """Replies that never come do not keep the stage."""
    never = threading.Event()

    def script(n: int, request: Request) -> Answer:
        return Answer(body={}, status=400) if request.prompt == "Up0A" else Answer(hold=never)

    with serving(script) as server:
        begin = time.monotonic()
        try:
            with pytest.raises(UserError, match="refuses"):
                list(make(server, concurrency=8).generate_all(jobs(6)))
            assert time.monotonic() - begin < 20
        finally:
            never.set()


def test_half_a_surrogate_pair_is_made_writable(make: Make) -> None:
    raw = b'{"choices": [{"text": "a\\ud800", "finish_reason": "stop"}]}'
    with serving(lambda n, r: Answer(body=raw)) as server:
        ((one, _),) = make(server).generate(Job(["p"], **HOW))
    assert one.text == "a?"


def test_over_the_chat_interface(make: Make) -> None:
    with serving(lambda n, r: Answer(f"{r.body['messages'][-1]['content']}!")) as server:
        engine = make(server, api="chat")
        assert [[c.text for c in ones] for ones in engine.generate(Job(["p"], **HOW))] == [["p!", "p!"]]
        with pytest.raises(UserError, match="cannot be begun"):
            engine.generate(Job(["p"], prefixes=["x"], **HOW))
        begun = make(server, api="chat", dialect="vllm").generate(Job(["p"], prefixes=["x"], **HOW))
        assert begun[0][0].text == "x!"
    body = [r.body for r in server.requests if r.body][-1]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert {r.path for r in server.requests if r.body} == {"/v1/chat/completions"}


def test_a_begin_token_is_sent_once(make: Make) -> None:
    with serving() as server:
        engine = make(server, tokenizer=Tokenizer(begin="^", template="^U{}A"))
        assert engine.generate(Job(["p"], **HOW))[0][0].text.startswith("UpA#")
        doubled = make(server, tokenizer=Tokenizer(begin="^", template="U{}A"))
        with pytest.raises(UserError, match="special tokens") as caught:
            doubled.generate(Job(["p"], **HOW))
        assert "dialect: vllm" in str(caught.value.remedy)


def test_a_server_of_another_model_is_refused(make: Make, tmp_path: Path) -> None:
    here = str(tmp_path / "model")
    with ScriptedServer(echo, models=("other",)) as other, ScriptedServer(echo, models=("x", here)) as listed:
        for given in ({}, {"rlvr": "m"}, {"generator": "other"}):
            with pytest.raises(UserError, match="does not serve the model of the stage rlvr") as caught:
                make(other, served_model=given)
            assert "it lists other" in str(caught.value)
        make(other, served_model={"rlvr": "other"})
        make(listed, served_model={}).generate(Job(["p"], **HOW))
        assert listed.verdicts[0].body["model"] == here
        with pytest.raises(UserError, match="does not serve"):
            make(listed, other, served_model={})  # each replica must


def test_a_server_may_say_the_directory_beside_its_name(make: Make, tmp_path: Path) -> None:
    rows = {"data": [{"id": "short", "root": str(tmp_path / "x" / ".." / "model")}]}
    with ScriptedServer(echo, models=Answer(body=rows)) as server:
        make(server, served_model={}).generate(Job(["p"], **HOW))
    assert server.verdicts[0].body["model"] == "short"


def test_a_server_that_does_not_list_its_models_stops_the_stage(make: Make) -> None:
    with ScriptedServer(echo, models=Answer(status=404)) as server:
        with pytest.raises(StageStopped, match="HTTP 404"):
            make(server)


# A server of a few lines with a child of its own, as the engines' servers have workers.
SERVER = """
import http.server, json, subprocess, sys
model, port, pids = sys.argv[1:4]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(pids, "a") as out:
    out.write(f"{child.pid}\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = json.dumps({"choices": [{"text": asked["model"], "finish_reason": "stop"}]}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def starting(tmp_path: Path, **options: Any) -> EngineServerPart:
    command = (sys.executable, "-c", SERVER, "{model}", "{port}", str(tmp_path / "pids"))
    return EngineServerPart(start=command, **options)


def pids(tmp_path: Path, n: int) -> list[int]:
    found = (tmp_path / "pids").read_text().split()
    assert len(found) == n
    return [int(pid) for pid in found]


def gone(numbers: Sequence[int]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]:
            return True
        time.sleep(0.05)
    return False


def test_started_servers_answer_for_the_model_and_end_with_their_groups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ours, "load_tokenizer", lambda path: Tokenizer())
    engine = ServerEngine(tmp_path / "model", starting(tmp_path, replicas=2))
    found = engine.generate(Job(["p", "q"], **HOW))
    assert {c.text for ones in found for c in ones} == {str(tmp_path / "model")}
    children = pids(tmp_path, 2)
    assert all(psutil.pid_exists(n) for n in children)
    engine.close()
    assert gone(children)
    engine.close()


def test_a_server_that_does_not_come_up_is_told_with_its_last_words(tmp_path: Path) -> None:
    fails = (sys.executable, "-c", "import sys; sys.exit('no such device')", "{model}", "{port}")
    with pytest.raises(UserError, match=r"exit code 1; its output ends:\nno such device"):
        Servers(EngineServerPart(start=fails), tmp_path)
    slow = (sys.executable, "-c", "import time; time.sleep(60)", "{model}", "{port}")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"no answer within 0\.3 s"):
        Servers(EngineServerPart(start=slow, ready_seconds=0.3), tmp_path)
    assert time.monotonic() - begin < 20
    with pytest.raises(UserError, match="/no/such/command: No such file"):
        Servers(EngineServerPart(start=("/no/such/command", "{model}", "{port}")), tmp_path)


def test_servers_end_when_their_stage_is_killed(tmp_path: Path) -> None:
    part = starting(tmp_path).model_dump_json()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pns.parts.engine import EngineServerPart\n"
        "from pns.sampling.servers import Servers\n"
        "servers = Servers(EngineServerPart.model_validate_json(sys.argv[1]), Path('model'))\n"
        "print(servers.urls[0], flush=True)\ntime.sleep(600)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    stage = subprocess.Popen([sys.executable, "-c", code, part], stdout=subprocess.PIPE, env=env)
    assert stage.stdout is not None
    assert stage.stdout.readline().startswith(b"http://127.0.0.1:")
    family = [p.pid for p in psutil.Process(stage.pid).children(recursive=True)]
    assert len(family) == 3  # the guard, the server, its child
    stage.send_signal(signal.SIGKILL)
    stage.communicate()
    assert gone(family)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "name urls of running servers, or start"),
        ({"urls": ["http://a/v1"], "start": ["x", "{model}", "{port}"]}, "not both"),
        ({"urls": ["http://a/v1"] * 2}, "without repeats"),
        ({"urls": ["http://a/v1"], "replicas": 2}, "replicas says nothing to urls"),
        ({"start": ["x", "{model}", "{port}"], "served_model": {"rlvr": "m"}}, "served_model says nothing to start"),
        ({"start": ["x", "{model}"]}, "must hold {model} and {port}"),
        ({"start": ["x", "{model}", "{prot}"]}, "{prot} is unknown"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("{", r"\{")):
        EngineServerPart.model_validate_json(json.dumps(given))
