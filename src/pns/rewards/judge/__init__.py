"""A chain-of-thought judge behind any OpenAI-compatible server. (Rubric: method.md; everything else here: ours.)

`server` joins the parts: `prompts` (versioned files), `quote` (the response as data), `client` (one request, retries),
`probe` (what the server can do), `parse` (what is believed), `cache` (verdicts on disk), `budget`, `loop` (the thread).
"""

from __future__ import annotations

from pns.rewards.judge.parse import VERDICT_SCHEMA, MalformedVerdict, Verdict, parse_verdict
from pns.rewards.judge.prompts import Prompt, load_prompt
from pns.rewards.judge.server import ServerJudge

__all__ = ["VERDICT_SCHEMA", "MalformedVerdict", "Prompt", "ServerJudge", "Verdict", "load_prompt", "parse_verdict"]
