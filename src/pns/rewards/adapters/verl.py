"""The composite as verl calls a custom reward function (checked with verl 0.9.1: `make check-verl`). Needs no verl.

    reward.reward_manager.name=naive
    reward.custom_reward_function.path=pkg://pns.rewards.adapters.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.recipe=my/reward.yaml

verl's reward loop awaits one call a response and gathers them, so calls that are under way at the same time are scored
as one batch. Its managers `naive` and `dapo` fit; `remote` takes no asynchronous function. verl does not say whether a
response was cut off: the other format checks stand alone there. Before verl 0.7.1 the same keys stood without `reward.`.

An abort is no end of training there: since 0.9 (`trainer.use_v1`, its default) verl logs it, leaves that response out of its
group, and stops only at a step without any response. That is what unscored means, so long as they are few; past
`reward.max_unscored` of the last 200 responses of a reward worker every further one aborts, until that step comes.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pns.errors import UserError
from pns.rewards.adapters.batching import Row
from pns.rewards.adapters.fields import finish_in, given, problem_of
from pns.rewards.adapters.plugin import RewardAborted, Settings, Watch, as_numbers, batcher, needs_text

_OURS = ("recipe", "overrides", "on_unscored", "problem_key", "use_router")
_PROBLEM_KEYS = ("problem", "question")
_watches: dict[Settings, Watch] = {}


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    overrides: str | Sequence[str] | None = None,
    on_unscored: str | float | None = None,
    problem_key: str | None = None,
    use_router: bool = False,
    reward_router_address: str | None = None,
    **of_verl: Any,
) -> dict[str, float]:
    """The score of one response, with its breakdown in fixed numeric keys (see `plugin.as_numbers`).

    Args:
        ground_truth: the gold answer. `kind`, `tolerance` and `unit` are read from `extra_info`, if they are there.
        extra_info: holds the statement under `problem` or `question`, or what `problem_key` names.
        recipe, overrides, on_unscored: see `plugin.Settings`; reward_kwargs or the environment.
        use_router: ask the recipe's reward model, of kind `vllm`, through verl's router in place of its `server.url`.
        reward_router_address: where that is; verl says so where `reward.reward_model.enable` is true.
    Raises RewardAborted where the settings or the data cannot be used, and for an unscored response unless
        `on_unscored` is a penalty; after too many of those, for every one.
    """
    try:
        _known(of_verl)
        settings = Settings.of(recipe, overrides, on_unscored)
        if use_router:
            settings = replace(settings, overrides=(*settings.overrides, _routed(reward_router_address)))
        # The first call loads models and starts workers: not on the event loop.
        made = await asyncio.to_thread(batcher, settings)
        watch = _watches.setdefault(settings, Watch(made.composite.part.max_unscored))
        watch.check()
        info = dict(extra_info or {})
        statement = next((info[k] for k in (problem_key, *_PROBLEM_KEYS) if k and given(info.get(k))), None)
        problem = problem_of(
            info | {"answer": ground_truth, "problem": statement}, needs_text=needs_text(made), where="extra_info"
        )
    except UserError as error:
        raise RewardAborted(str(error)) from None
    scores = await asyncio.wrap_future(made.submit(Row(problem, solution_str, finish_in(info))))
    if settings.on_unscored == "abort":
        watch.see(scores)
    return as_numbers(scores, made.composite.part, settings.on_unscored)


def _routed(address: str | None) -> str:
    if not address:
        raise UserError(
            "verl has no router", field="reward_kwargs.use_router", remedy="set reward.reward_model.enable=true, too"
        )
    return f"reward.reward_model.server.url=http://{address}"


def _known(of_verl: Mapping[str, Any]) -> None:
    """verl adds arguments of its own, which differ between versions; a misspelt one of ours is refused."""
    for name in of_verl:
        near = difflib.get_close_matches(name, _OURS, n=1, cutoff=0.75)
        if near:
            raise UserError("unknown setting", field=f"reward_kwargs.{name}", remedy=f"did you mean `{near[0]}`?")
