"""The term M: a scalar reward model, and its calibration on correct responses to problems that it was not trained on.

Reward model as a term: paper. Squash and calibration: ours (docs: method).
"""

from __future__ import annotations

import json
import math
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pns.compute import batches, turn
from pns.errors import UserError
from pns.faults import said
from pns.rewards.identity import ModelMark, digest_of_model
from pns.run import write_atomic
from pns.weights import whole_weights

if TYPE_CHECKING:
    from pns.readers import Passes

VERSION: Literal[1] = 1
AGAIN = "make it again: `pns calibrate`, or in a run `pns stage reward_model`"
FILE = "calibration.json"
QUANTILES = tuple(round(0.05 * i, 2) for i in range(1, 20))
MIN_SCALE = 1e-6
MAX_TOKENS = 2**16
"""Of one forward pass, padding included: its activations lie beside whatever else is on the device."""


class Calibration(BaseModel):
    """Median and scale of the raw scores of correct responses, and the quantiles of M on them.

    `n` counts those responses; `quantiles` maps "0.05", "0.10", ... "0.95" to values of M in 0..1. `model` says whose
    scores they were; a calibration without it is used unchecked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = VERSION
    n: int = Field(ge=1)
    median: float = Field(allow_inf_nan=False)
    scale: float = Field(gt=0, allow_inf_nan=False)
    quantiles: dict[str, float]
    model: ModelMark | None = None

    @classmethod
    def fit(cls, scores: Sequence[float], model: ModelMark | None = None) -> Calibration:
        """From raw scores of correct responses to held-out problems.

        The scale is the interquartile range / 1.349 (a normal distribution's standard deviation); where that is
        nothing, the standard deviation; at least 1e-6. Raises UserError without scores, or with one that is not finite.
        """
        raw = [float(score) for score in scores]
        if not raw or not all(math.isfinite(score) for score in raw):
            raise UserError(
                f"the reward model cannot be calibrated on {len(raw)} scores of correct responses, all of them finite",
                remedy="more problems or samples for it, so that some held-out responses are correct",
            )
        scale = (_quantile(raw, 0.75) - _quantile(raw, 0.25)) / 1.349 or statistics.pstdev(raw)
        bare = cls(n=len(raw), median=statistics.median(raw), scale=max(scale, MIN_SCALE), quantiles={}, model=model)
        squashed = [bare.squash(score) for score in raw]
        return bare.model_copy(update={"quantiles": {f"{q:.2f}": _quantile(squashed, q) for q in QUANTILES}})

    def squash(self, raw: float) -> float:
        """M = sigmoid((raw - median) / scale), 0..1; 0.5 is as good as the middle correct response."""
        z = (raw - self.median) / self.scale
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(max(z, -700)) / (1 + math.exp(max(z, -700)))

    def undone(self) -> Calibration:
        """The same scores without calibration: M = sigmoid(raw). Its quantiles are those of the same responses."""
        bare = self.model_copy(update={"median": 0.0, "scale": 1.0})
        logits = {q: math.log(m / (1 - m)) for q, m in self.quantiles.items() if 0 < m < 1}
        moved = {q: bare.squash(self.median + self.scale * z) for q, z in logits.items()}
        return bare.model_copy(update={"quantiles": {**self.quantiles, **moved}})

    def quantile(self, q: float) -> float:
        """M of correct responses at quantile `q` (0..1), linear between the stored ones, flat outside 0.05..0.95."""
        if q <= QUANTILES[0] or q >= QUANTILES[-1]:
            return self.quantiles[f"{QUANTILES[0] if q <= QUANTILES[0] else QUANTILES[-1]:.2f}"]
        low = min(int(q / 0.05 + 1e-9), len(QUANTILES) - 1) - 1
        a, b = self.quantiles[f"{QUANTILES[low]:.2f}"], self.quantiles[f"{QUANTILES[low + 1]:.2f}"]
        share = (q - QUANTILES[low]) / 0.05
        return a * (1 - share) + b * share

    def check(self, model: ModelMark, directory: str | Path) -> None:
        """Whether it was made with this model. Raises UserError naming both; `directory` is where it was read."""
        if self.model is not None and not self.model.same(model):
            raise UserError(
                f"belongs to another reward model ({self.model}), and the one in use is {model}",
                file=Path(directory) / FILE, field="model",
                remedy="calibrate this one: pns calibrate FILE --recipe RECIPE --out FOLDER",
            )  # fmt: skip

    def save(self, directory: str | Path) -> Path:
        """Write calibration.json atomically; the directory is made if need be."""
        path = Path(directory) / FILE
        write_atomic(path, self.model_dump_json(indent=1, exclude_none=True) + "\n")
        return path

    @classmethod
    def load(cls, directory: str | Path) -> Calibration:
        """Read calibration.json. Raises UserError where it is missing, broken, or of another version."""
        path = Path(directory) / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                "no such file",
                file=path,
                remedy="name the folder that `pns calibrate` wrote, or that of a run's reward model",
            ) from None
        except ValueError as error:
            raise UserError(f"not valid JSON ({error})", file=path, remedy=AGAIN) from None
        version = data.get("version") if isinstance(data, dict) else None
        if version != VERSION:
            raise UserError(
                f"is version {version!r}, and this program reads version {VERSION}",
                file=path, field="version", remedy=AGAIN,
            )  # fmt: skip
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(p) for p in first["loc"])
            raise UserError(said(first), file=path, field=field, remedy=AGAIN) from None


def _quantile(values: Sequence[float], q: float) -> float:
    """Quantile with linear interpolation between order statistics."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


class RewardModel:
    """A sequence classifier with one label, as a scorer. Safe to use from several threads: one forward pass at a time.

    Args:
        path: a directory with model and tokenizer, or a hub id. Code that comes with a model is never run.
        device: a torch device.
        batch_size: sequences in one forward pass.
        dtype: of the weights; `auto` keeps the one that they were saved in. Scores are float32 either way.
        revision: of the hub, for model and tokenizer.
        passes: of the same model elsewhere, in place of loading it here; it is checked there.
    Raises UserError where there is no tokenizer or chat template, more than one label, or a padding token that is
    missing or the same as the end token (engines would pool different positions).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        batch_size: int = 128,
        dtype: str = "auto",
        revision: str | None = None,
        passes: Passes | None = None,
    ) -> None:
        self.path, self.device, self.batch_size = str(path), device, batch_size
        self.tokenizer = chat_tokenizer(self.path, revision)
        self._turn, self._passes = threading.Lock(), passes
        facts = self._load(dtype, revision) if passes is None else passes.facts()
        self.max_length: int | None = facts["positions"]
        self.revision: str | None = facts["revision"]

    def facts(self) -> dict[str, Any]:
        """`positions`, the longest sequence (None: any), and the `revision` of the hub."""
        return {"positions": self.max_length, "revision": self.revision}

    def _load(self, dtype: str, revision: str | None) -> dict[str, Any]:
        from transformers import AutoModelForSequenceClassification

        try:
            with whole_weights(self.path):
                model: Any = AutoModelForSequenceClassification.from_pretrained(
                    self.path, dtype=dtype, revision=revision, trust_remote_code=False
                )
        except (OSError, ValueError) as error:
            raise UserError(
                f"not a sequence classifier ({error})", file=self.path, remedy="give a reward model"
            ) from None
        config = model.config
        if config.num_labels != 1:
            raise UserError(f"has {config.num_labels} labels, a reward model has 1", file=self.path, field="num_labels")
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if config.pad_token_id is None or config.pad_token_id in [*ends, self.tokenizer.eos_token_id]:
            raise UserError(
                "the padding token is missing, or is the end token",
                file=self.path, field="pad_token_id", remedy="give model and tokenizer a padding token of their own",
            )  # fmt: skip
        self.model = model.to(self.device).eval()
        return {
            "positions": getattr(config, "max_position_embeddings", None),
            "revision": getattr(config, "_commit_hash", None) or revision,
        }

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float]:
        """Raw scores, any real number, in the order given.

        Each is read as a user and an assistant message in the model's chat template. Raises ValueError where a
        sequence is longer than the model's positions; nothing is cut.
        """
        scores = []
        for score, ids in self._scored(problems, texts):
            if score is None:
                raise ValueError(
                    f"a sequence of {len(ids)} tokens, and the reward model has {self.max_length} positions"
                )
            scores.append(score)
        return scores

    def score_fitting(self, problems: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        """As `score`, with None for a sequence that is longer than the model's positions."""
        return [score for score, _ in self._scored(problems, texts)]

    def mark(self) -> ModelMark:
        """What identifies the model. A local directory is read for it."""
        digest = digest_of_model(self.path)
        return ModelMark(
            kind="transformers", path=self.path, digest=digest, revision=None if digest is not None else self.revision
        )

    def _scored(self, problems: Sequence[str], texts: Sequence[str]) -> list[tuple[float | None, list[int]]]:
        """Score and token ids of each, in order; the score of one that is too long is None."""
        # The tokenizer too: a fast one is no thread's to share while it pads.
        with self._turn:
            ids = encode_all(self.tokenizer, problems, texts)
            fitting = [i for i in range(len(ids)) if self.max_length is None or len(ids[i]) <= self.max_length]
            order = sorted(fitting, key=lambda i: len(ids[i]))
            scores: list[float | None] = [None] * len(ids)
            chunks = list(batches(order, [len(row) for row in ids], self.batch_size, MAX_TOKENS))
            groups = [[ids[i] for i in chunk] for chunk in chunks]
            found = map(self.one_pass, groups) if self._passes is None else self._passes(groups)
            for chunk, values in zip(chunks, found, strict=True):
                for i, value in zip(chunk, values, strict=True):
                    scores[i] = value
        return list(zip(scores, ids, strict=True))

    def one_pass(self, rows: Sequence[list[int]]) -> list[float]:
        """Raw scores of one batch of token ids; one at a time."""
        import torch

        inputs = self.tokenizer.pad(
            {"input_ids": list(rows)}, padding=True, padding_side="right", return_tensors="pt"
        ).to(self.model.device)
        with turn(self.device), torch.inference_mode():
            scores: list[float] = self.model(**inputs).logits[:, 0].float().tolist()
        return scores


class FittingScorer:
    """A RewardModel as the composite asks for one: what is too long for it has no score, and the others keep theirs."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self.score, self.mark = model.score_fitting, model.mark


def chat_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer of a directory or hub id. Raises UserError where there is none, or one without a chat template."""
    from transformers import AutoTokenizer

    missing = UserError("no tokenizer that can be read", file=path, remedy="save the tokenizer beside the model")
    folder = Path(path)
    if not folder.exists() and path.startswith(("/", "./", "../", "~")):  # no hub id
        raise UserError("no such folder", file=path, remedy="check the path")
    if folder.is_dir() and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise missing
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception:  # a broken file has the libraries raise KeyError, TypeError or Exception itself, too
        raise missing from None
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template", file=path, remedy="give it the policy's chat template")
    return tokenizer


def encode(tokenizer: Any, problem: str, text: str) -> list[int]:
    """Token ids of problem and response as a user and an assistant message, with the template's special tokens."""
    ids: list[int] = tokenizer.apply_chat_template(messages(problem, text), tokenize=True, return_dict=True)[
        "input_ids"
    ]
    return ids


def encode_all(tokenizer: Any, problems: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """`encode` of many at once, which takes a tenth of the time."""
    if not texts:  # tokenizers do not take an empty batch
        return []
    rows = [messages(*row) for row in zip(problems, texts, strict=True)]
    ids: list[list[int]] = tokenizer.apply_chat_template(rows, tokenize=True, return_dict=True)["input_ids"]
    return ids


def messages(problem: str, text: str) -> list[dict[str, str]]:
    """The conversation that a reward model reads."""
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": text}]
