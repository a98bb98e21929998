"""`pns serve-reward`: the composite reward over HTTP."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.common import errors, overrides_argument
from pns.errors import UserError


def serve_reward(
    recipe: Annotated[
        Path,
        typer.Argument(help="Recipe: a whole one, or one with only `reward`.", metavar="RECIPE", show_default=False),
    ],
    overrides: Annotated[list[str] | None, overrides_argument("reward.judge=none")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. Others than this machine: 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, and says which.")] = 8100,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the bearer token that clients must send.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = 16,
    max_responses: Annotated[int, typer.Option(min=1, help="Responses of one request.")] = 512,
    max_pending: Annotated[
        int, typer.Option(min=1, help="Responses of all requests under way; beyond it, 429.")
    ] = 4096,
    max_batch: Annotated[int, typer.Option(min=1, help="Responses scored together.")] = 64,
    batches: Annotated[int, typer.Option(min=1, help="Batches scored at the same time.")] = 4,
) -> None:
    """Serve the composite reward: POST /score, GET /health, GET /metrics (Prometheus). Ctrl-C finishes what is under way.

    Examples:

      pns serve-reward recipes/reward.yaml

    \b
      PNS_TOKEN=... pns serve-reward recipes/reward.yaml \\
        --host 0.0.0.0 --token-env PNS_TOKEN

    \b
      curl localhost:8100/score -H 'Content-Type: application/json' \\
        -d '{"responses": [{"problem": "Mia has 12 apples and finds 5. Now?",
             "answer": "17", "response": "12 + 5 = 18. So \\\\boxed{18}."}]}'
    """
    with errors():
        from pns.recipe_files import load_reward

        part = load_reward(recipe, overrides or [])
        token = _token(token_env)
        listener = _listen(host, port)
        try:
            bounds = {"max_body": max_body_mb << 20, "max_responses": max_responses, "max_pending": max_pending}
            _serve(recipe.stem, part, listener, token=token, bounds=bounds, max_batch=max_batch, batches=batches)
        finally:
            listener.close()


def _serve(
    name: str,
    part: Any,
    listener: socket.socket,
    *,
    token: str | None,
    bounds: dict[str, int],
    max_batch: int,
    batches: int,
) -> None:
    try:
        import uvicorn

        from pns.rewards.adapters.http import Limits, make_app
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs {error.name}, which is not installed",
            remedy='pip install "plausible-negatives[server]"',
        ) from None
    from pns.rewards.adapters.batching import Batcher
    from pns.rewards.build import build_composite

    batcher = Batcher(build_composite(part), max_batch=max_batch, threads=batches)
    app = make_app(batcher, name=name, token=token, limits=Limits(**bounds))
    address, port = listener.getsockname()[:2]
    typer.echo(f"serving {name} at {_url(address, port)} (POST /score, GET /health, GET /metrics)", err=True)
    if token is None and not ipaddress.ip_address(address).is_loopback:
        typer.echo("warning: anybody who reaches this address may use it; --token-env asks for a token", err=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, timeout_keep_alive=65))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # raised again by uvicorn, when all is finished
        typer.echo("stopped", err=True)
    finally:
        batcher.close()


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise UserError(
            f"the environment variable {variable} is not set", field="--token-env", remedy=f"export {variable}=..."
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UserError(
            f"what {variable} holds cannot be sent in a header", field="--token-env", remedy="plain ASCII, no spaces"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port that is taken is told before models are loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UserError(f"{host!r} is no address ({error.strerror})", field="--host", remedy="e.g. 127.0.0.1") from None
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen at {host}:{port} ({error.strerror})", field="--port", remedy="choose another, or --port 0"
        ) from None
    return listener
