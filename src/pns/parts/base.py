"""What parts of several rooms share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Base of all parts: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BasePart(Part):
    """Another pretrained model to start a training from, in place of the policy."""

    path: str = Field(min_length=1, description="directory or hub id")
    revision: str | None = Field(None, description="hub revision to pin")


class SamplePart(Part):
    """How completions are drawn."""

    n: int = Field(8, ge=1, description="completions a problem")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(72, ge=1)
    batch_size: int = Field(256, ge=1, description="sequences in one generate call; also the size of a shard")


class ServerPart(Part):
    """How to talk to a server. None of it changes what a named model answers, so none of it enters fingerprints; only
    where no model is named, the address does (see `unnamed_server`).
    """

    url: str = Field(description="base URL, e.g. http://localhost:8000/v1 for a judge, http://localhost:8000 else")
    api_key_env: str | None = Field(None, description="environment variable that holds the API key")
    concurrency: int = Field(16, ge=1, description="requests at a time; the processes of a training share them")
    timeout_seconds: float = Field(120.0, gt=0, description="for one request, once it is sent")
    retries: int = Field(4, ge=0, description="further tries after 429, 5xx or a time-out, with jittered waits")


def unnamed_server(part: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dumped part's server tells which model answers: its address, where the part names no model for it to serve.

    The only model that a server lists is whatever it was started with, and another server has another one.
    """
    server = part.get("server")
    if server is None or part.get("model", part.get("name")) is not None:
        return {}
    return {"server": server["url"]}
