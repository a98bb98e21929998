"""The reward model behind a server gives the scores of the same model in process: real tokenizer, real classifier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.reward_servers import MODEL, THREAD, ModelServer, SglangServer, VllmServer, source
from pns.errors import UserError
from pns.recipe import RewardPart
from pns.records import Problem
from pns.rewards import Calibration, RewardModel
from pns.rewards.build import build_composite
from pns.rewards.reward_model import encode
from pns.rewards.reward_server import RewardServer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

# With a token at the start that the template does not write: a tokenizer that adds it to text is found out.
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
WORDS = ["<pad>", "<start>", "<end>", "<user>", "<assistant>", "<unk>", "one", "two", "three", "What", "is", "2", "3?"]
PROBLEMS = ["one two", "three", "What is 2", "two two two one", "three one", "one", "two"]
TEXTS = ["one", "two three one two three one two", "three", "one one", "", "three " * 70, "three one " * 20]
FITS = 64


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=FITS, num_labels=1, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.normal_()
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def local(saved: Path) -> RewardModel:
    return RewardModel(saved)


@pytest.fixture
def served(local: RewardModel) -> Any:
    """The model as a server has it: token ids -> the number after each token."""
    turn = threading.Lock()

    def score(ids: list[int]) -> list[list[float]]:
        with turn, torch.inference_mode():
            states = local.model.model(input_ids=torch.tensor([ids])).last_hidden_state
            found: list[list[float]] = local.model.score(states)[0].float().tolist()
            return found

    return score


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    assert not [t for t in threading.enumerate() if t.name == THREAD]


SERVERS = [
    (VllmServer, {}),
    (VllmServer, {"task": "token_classify"}),
    (VllmServer, {"switch": "activation"}),
    (SglangServer, {}),
]


@pytest.mark.parametrize(("kind", "options"), SERVERS)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_are_those_of_the_model_in_process(
    saved: Path, local: RewardModel, served: Any, kind: type[ModelServer], options: dict[str, Any], batch_size: int
) -> None:
    want = local.score_fitting(PROBLEMS, TEXTS)
    assert [score is None for score in want] == [False, False, False, False, False, True, False]
    with kind(score=served, max_model_len=FITS, **options) as server:
        with RewardServer(source(server, path=str(saved), batch_size=batch_size)) as scorer:
            assert scorer.score(PROBLEMS, TEXTS) == [w if w is None else pytest.approx(w, abs=1e-5) for w in want]


def test_what_does_not_fit_is_the_same_in_process_and_behind_vllm(saved: Path, local: RewardModel, served: Any) -> None:
    frame = len(encode(local.tokenizer, "one", ""))
    texts = ["two " * n for n in (FITS - frame - 1, FITS - frame, FITS - frame + 1)]
    want = local.score_fitting(["one"] * 3, texts)
    assert [score is None for score in want] == [False, False, True]
    with VllmServer(score=served, max_model_len=FITS) as server:
        with RewardServer(source(server, path=str(saved))) as scorer:
            assert scorer.score(["one"] * 3, texts) == [w if w is None else pytest.approx(w, abs=1e-5) for w in want]


def test_text_is_read_as_the_tokenizer_reads_it(saved: Path, local: RewardModel, served: Any) -> None:
    """A server that takes no token ids tokenizes the text that our template has written, and adds nothing to it."""

    def tokenize(text: str, special: bool) -> list[int]:
        found: list[int] = local.tokenizer(text, add_special_tokens=special)["input_ids"]
        return found

    assert tokenize("one", True) != tokenize("one", False)
    want = local.score(PROBLEMS[:4], TEXTS[:4])
    with VllmServer(score=served, max_model_len=FITS, ids=False, tokenize=tokenize) as server:
        with RewardServer(source(server, path=str(saved))) as scorer:
            assert (scorer.dialect.ids, scorer.dialect.raw_field) == (False, "use_activation")
            assert scorer.score(PROBLEMS[:4], TEXTS[:4]) == pytest.approx(want, abs=1e-5)


def test_the_composite_reads_it_with_the_calibration_of_this_model_only(
    saved: Path, local: RewardModel, served: Any, tmp_path: Path
) -> None:
    problem = Problem(id="p", problem="What is 2 + 3?", answer="5")
    text = "Step 1: 2 + 3 = 6\nThe answer is \\boxed{6}"
    with VllmServer(score=served, max_model_len=FITS) as server:
        named = source(server, path=str(saved), calibration=tmp_path)
        with RewardServer(named) as scorer:
            mark = scorer.mark()
        assert (mark.name, mark.path) == (MODEL, str(saved))
        Calibration.fit([-1.0, 0.0, 1.0, 2.0], mark).save(tmp_path)
        part = RewardPart(reward_model=named, judge="none")
        with build_composite(part) as composite:
            (score,) = composite([problem], [text], ["stop"])
        (want,) = local.score([problem.problem], [text])
        assert score.reward_raw == pytest.approx(want, abs=1e-5)
        assert score.score == pytest.approx(0.4 + 0.2 * Calibration.load(tmp_path).squash(want), abs=1e-5)

        Calibration.fit([0.0, 1.0], mark.model_copy(update={"name": "another"})).save(tmp_path)
        with pytest.raises(UserError, match=r"another reward model \(vllm, another"):
            build_composite(part)
