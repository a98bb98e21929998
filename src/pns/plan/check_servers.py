"""Before a run starts: do the servers that a recipe names answer, and do they have its models?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from pns.errors import UserError
from pns.extras import install
from pns.parts.base import ServerPart
from pns.plan.check import TIMEOUT, Check
from pns.recipe import Recipe


def servers(recipe: Recipe, ask: bool) -> Iterator[Check]:
    """Of judge, reward model, prompted writer, engine and vLLM servers: do they answer, and list the model that is named?"""
    reward, prompted = recipe.reward, recipe.negatives.prompted
    if reward.judge_server is not None:
        judge = reward.judge_server
        yield _server("judge", judge.server, judge.model, "reward.judge_server.server", "/models", ask)
    if reward.reward_model is not None and reward.reward_model.server is not None:
        scorer = reward.reward_model
        yield _server(
            "reward model", reward.reward_model.server, scorer.name, "reward.reward_model.server", "/v1/models", ask
        )
    if "prompted" in recipe.negatives.sources() and prompted.server is not None:
        yield _server("prompted", prompted.server, prompted.model, "negatives.prompted.server", "/models", ask)
    if recipe.engine.server is not None:
        # What it lists is not held against a name: it serves models that the run has yet to make.
        for url in recipe.engine.server.urls:
            part = ServerPart(url=url, api_key_env=recipe.engine.server.api_key_env)
            yield _alive(f"engine {url}", part, "engine.server", "/models", ask)
    vllm = recipe.runtime.vllm
    for name, at in () if vllm is None else (("GRPO's vLLM", vllm.url), ("the generator's vLLM", vllm.generator_url)):
        if at is not None:
            yield _alive(name, ServerPart(url=at), "runtime.vllm", "/health", ask)


def _server(name: str, part: ServerPart, model: str | None, field: str, path: str, ask: bool) -> Check:
    """Whether a server answers, takes the key, and lists the model."""
    reply = _ask(name, part, field, path, ask)
    return reply if isinstance(reply, Check) else _lists(f"server: {name}", part, model, reply)


def _alive(name: str, part: ServerPart, field: str, path: str, ask: bool) -> Check:
    """Whether a server answers and takes the key, whatever it says."""
    reply = _ask(name, part, field, path, ask)
    if isinstance(reply, Check) and reply.state == "unchecked" and ask:
        return Check(reply.name, "ok", f"{part.url} is there")
    return reply if isinstance(reply, Check) else Check(f"server: {name}", "ok", f"{part.url} answers")


def _ask(name: str, part: ServerPart, field: str, path: str, ask: bool) -> Any:
    """The JSON that a server has at a path; or, as a Check, why there is none: it is unchecked where a server is there."""
    label = f"server: {name}"
    try:
        from pns.rewards.judge.client import Client, ServerFailed
    except ImportError:
        return Check(label, "failed", "the library for servers is missing", install("server"))
    try:
        client = Client(part.model_copy(update={"timeout_seconds": TIMEOUT, "retries": 0}), field)
    except UserError as error:
        return Check(label, "failed", f"{error.field}: {error.message}", error.remedy or "")
    if not ask:
        return Check(label, "unchecked", f"{part.url}: not asked (--offline)")

    async def listed() -> Any:
        try:
            return await client.get(path)
        finally:
            await client.close()

    try:
        reply: Any = asyncio.run(listed())
    except ServerFailed as error:
        if error.status is not None and error.status not in (401, 403):
            return Check(label, "unchecked", f"{part.url} is there, and does not list its models ({error})")
        return Check(label, "failed", f"{part.url}: {error}", "start the server, or mend its URL or key")
    return reply


def _lists(label: str, part: ServerPart, model: str | None, reply: Any) -> Check:
    rows = reply.get("data") if isinstance(reply, dict) else None
    served = [str(row.get("id"))[:80] for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not served:
        return Check(label, "unchecked", f"{part.url} answers, and not with a list of models")
    if model is not None and model not in served:
        return Check(
            label, "failed", f"{part.url} lists {', '.join(served[:5])}, not {model}", "name one of them, or serve it"
        )
    if model is None and len(served) > 1:
        return Check(label, "failed", f"{part.url} lists {len(served)} models", "name one of them in the recipe")
    return Check(label, "ok", f"{part.url} lists {model or served[0]}")
