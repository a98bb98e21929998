"""From a study's cells to tasks: one task for each distinct stage, whoever needs it.

A task is named by what it depends on (its fingerprint), so cells of one seed share all that they have in common, two
protocols that choose the same settings share their cells, and a changed study makes again only what changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pns import fingerprints, pipeline
from pns.errors import UserError
from pns.pipeline import Stage
from pns.recipe import REFERENCES, Method, Recipe
from pns.run import fingerprint
from pns.scheduler import Task

OWN_SFT = "align-sft_chosen-own"
HARDENED = "models:hardened_reward_model"
PLAIN = "plain"
"""The reward model that saw no negatives but the policy's own."""


@dataclass(frozen=True)
class _View:
    """A recipe's stages, its values and the files that they read."""

    nodes: Mapping[str, Stage]
    data: Mapping[str, object]
    files: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _Request:
    """What `Graph.add` was asked for; see there."""

    recipe: Recipe
    special: Mapping[str, Recipe]
    nodes: Mapping[str, Stage] | None
    prefix: str


class Graph:
    """Tasks by name, each after those it needs."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self._names: dict[str, str] = {}
        self._views: dict[str, _View] = {}

    def add(
        self, recipe: Recipe, stage: str, special: Mapping[str, Recipe] | None = None, *,
        nodes: Mapping[str, Stage] | None = None, given: Mapping[str, str] | None = None, prefix: str = "",
    ) -> str:  # fmt: skip
        """Add a stage and all that it needs; returns the task's name.

        Args:
            special: stages that see another recipe. Those after them see its effect alone.
            nodes: stages in place of the recipe's own.
            given: inputs that tasks of the graph make already: name of the input -> task.
            prefix: of the names of new tasks.
        Raises:
            KeyError: `special` or `stage` names none of the stages.
        """
        stages = nodes if nodes is not None else self._view(recipe).nodes
        # A generator beside the first one may be there for the recipe of the stages that it is tuned for alone.
        own = (name for name, seen in (special or {}).items() if name not in self._view(seen).nodes)
        unknown = {stage, *own} - set(stages)
        if unknown:
            raise KeyError(f"no stage called {', '.join(sorted(unknown))}")
        return self._add(_Request(recipe, special or {}, nodes, prefix), stage, dict(given or {}))

    def _add(self, asked: _Request, name: str, seen: dict[str, str]) -> str:
        if name in seen:
            return seen[name]
        recipe = asked.special.get(name, asked.recipe)
        view = self._view(recipe)
        nodes = view.nodes if asked.nodes is None else asked.nodes
        if name not in nodes:  # one of `special` needs a stage that the recipe of the others does not have
            raise KeyError(f"{name} is needed, and the other stages' recipe has none")
        stage = nodes[name]
        needs = {n: self._add(asked, n, seen) for n in stage.needs}
        marks = [self.tasks[key].mark for key in needs.values()]
        mark = fingerprints.mark_of(stage, view.data, view.files.get(name, {}), marks)
        key = self._names.setdefault(mark, f"s{recipe.seed}-{asked.prefix}{name}-{mark[:10]}")
        seen[name] = key
        self.tasks.setdefault(key, Task(stage, recipe, mark, key, needs))
        return key

    def _view(self, recipe: Recipe) -> _View:
        data = recipe.model_dump(mode="json")
        key = fingerprint(data=data)
        if key not in self._views:
            self._views[key] = _View(nodes_of(recipe), data, fingerprints.input_hashes(recipe))
        return self._views[key]


def nodes_of(recipe: Recipe) -> dict[str, Stage]:
    """The stages of a run, with scoring on the development split (`dev-X`) and on the benchmarks (`test-X`) apart, and
    the controls that see the chosen side of own pairs, the widest method's and each one's; the reward model's scores of all negatives; the
    other uses of a method's negatives.
    """
    nodes = {n: s for n, s in pipeline.stages(recipe).items() if not n.startswith(("evaluate-", "report"))}
    methods = recipe.negatives.methods
    models = [n for n in nodes if n.startswith("align-") or n in ("sft", "rlvr", *REFERENCES)]
    if "own" in recipe.pairs.regimes:
        control = nodes["align-sft_chosen"]
        nodes[OWN_SFT] = replace(control, name=OWN_SFT, args=("own", widest(methods)))
        own = {sft_stage(m): replace(control, name=sft_stage(m), args=("own", m)) for m in methods}
        nodes |= own
        models += [OWN_SFT, *own]
    needs = ("problems", *pipeline.chosen_needs(recipe), "reward_model", *(f"negatives-{m}" for m in methods))
    nodes["scores"] = Stage("scores", "negatives:reward_scores", needs, ("negatives.methods", "runtime.device"))
    uses = _uses(recipe, nodes["reward_model"])
    nodes |= uses
    models += [name for name, stage in uses.items() if stage.call == "uses:rl"]
    keys = pipeline.scoring_keys()
    for kind in ("dev", "test"):
        for model in models:
            needs = tuple(dict.fromkeys(("problems", "rlvr", model)))
            nodes[f"{kind}-{model}"] = Stage(
                f"{kind}-{model}", f"evaluate:{kind}", needs, keys, args=(model,), version=2
            )
    return nodes


def check_side_by_side(recipe: Recipe, jobs: int) -> None:
    """Raises UserError where trainings of several cells or rounds at a time would send their weights to one vLLM server."""
    vllm = recipe.runtime.vllm
    if jobs > 1 and vllm is not None and vllm.mode == "server":
        raise UserError(
            "GRPO trainings side by side would send their weights to one vLLM server",
            field="runtime.vllm", remedy="runtime.jobs=1 (of a study: --jobs 1), or mode: colocate",
        )  # fmt: skip


def widest(methods: Sequence[Method]) -> Method:
    """Of a study's methods the one whose own pairs the SFT control sees: `fill` serves all that rejection and pns serve."""
    return next((m for m in ("fill", "pns") if m in methods), methods[0])


def sft_stage(method: str) -> str:
    """The SFT control of one method: it sees the chosen side of that method's own pairs."""
    return f"{OWN_SFT}-{method}"


def rl_stage(judge: str) -> str:
    """The stage that trains the policy on a reward model: `plain`, or that of a method."""
    return f"rl-{judge}"


def _uses(recipe: Recipe, plain: Stage) -> dict[str, Stage]:
    """Stages of what else negatives are good for. Matched pairs: the same problems and as many for every method."""
    run, answers = ("runtime.device", "runtime.threads"), ("problems", "rlvr", "rollouts-reward")
    rl_keys = ("uses.rl", "rlvr", "generator", "reward.answer_format", "reward.max_chars", *pipeline.GRPO, *run)
    out = [Stage(rl_stage(PLAIN), "uses:rl", ("problems", "rlvr", plain.name), rl_keys, args=(plain.name,))]
    for method in recipe.negatives.methods:
        pairs = f"{recipe.pairs.regimes[0]}-{method}"
        hard, calibrated = (
            f"{plain.name}-{method}",
            ("uses.calibration_responses", "reward", "reward_model.holdout", *run),
        )
        out += [
            replace(
                plain, name=hard, call=HARDENED, needs=(*plain.needs, "pairs", plain.name),
                args=("reward", "pairs", plain.name, pairs),
            ),
            Stage(rl_stage(method), "uses:rl", ("problems", "rlvr", hard), rl_keys, args=(hard,)),
            Stage(
                f"step_verifier-{method}", "uses:step_verifier", (*answers, "pairs"),
                ("uses.step_verifier", "evaluate.bootstrap", *pipeline.VERIFY, *pipeline.TRAIN), args=(pairs,),
            ),
            Stage(f"calibration-{method}", "uses:calibration", (*answers, "pairs", plain.name), calibrated, args=(pairs,)),
        ]  # fmt: skip
    return {stage.name: stage for stage in out}


def with_foreign_rollouts(nodes: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages of a run in which `rejection` draws from the rollouts of another policy, the input `foreign`."""
    rollouts, rejection = nodes["rollouts-pairs"], nodes["negatives-rejection"]
    drawn = replace(
        rollouts, name="rollouts-foreign", needs=(*rollouts.needs, "foreign"), args=(*rollouts.args, "foreign")
    )
    return {
        **nodes, drawn.name: drawn, rejection.name: replace(rejection, needs=(*rejection.needs, drawn.name)),
    }  # fmt: skip
