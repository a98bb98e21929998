"""Where the time of a training step goes: GRPO of the generator and DPO, at the shape of a published model; and of a draw.

    python benchmarks/steps.py --device cuda [--shape qwen2.5-0.5b qwen2.5-1.5b] [--variant base bfloat16 ...] [--out FILE]
    python benchmarks/steps.py --shape tiny --variant base copy micro precomputed lora continuous    # what a CPU can do
    bash studies/with_wheels.sh python3 benchmarks/steps.py --device cuda           # a machine without TRL and datasets

Weights are random and the texts are random words: a step takes as long, and nothing has to be downloaded. `train_grpo` and
`train_preference` are called as the stages call them, each time in a process of its own; a clock around TRL's own methods
splits the step (each part without those inside it). `draw` is a lot of completions by the engine of stages that do not train.
Completions of random weights hardly ever end, so all have the full length.
The reward is a random number: verification, reward model and judge are measured by `benchmarks/pipeline.py`.

Model-FLOPs utilisation (MFU) is over the matrix product that this machine reaches in the same run (8192 x 8192, bfloat16; on a
CPU 768 x 768, float32): 2N operations a token forward and 6N in training, causal attention, the vocabulary for the
completion's tokens alone. What checkpointing computes again does not count. The first steps of each training (--warm) are left out.
`decode bandwidth` is the weights and the cache, once a new token, over the copy that the machine reaches.

The variants, each compared with `base` in the same run: GRPO sampling by TRL with the weights that it trains (`trl`), from a
`copy` of them (a GPU's default) or through torch.compile (`compiled`, which a draw has too), `bfloat16` weights in training,
`checkpointing` of activations, `micro` batches of a quarter and `wide` ones of twice the rows, `precomputed` log-probabilities
of DPO's reference, `lora`, `vllm` inside GRPO, `continuous` batching of a draw.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pns.parts.engine import EnginePart
from pns.parts.training import AlignPart, GrpoPart
from pns.plan.shapes import KNOWN, Shape
from pns.recipe import RuntimePart
from pns.worker import server

SHAPES = {
    "qwen2.5-0.5b": KNOWN["Qwen/Qwen2.5-0.5B-Instruct"],
    "qwen2.5-1.5b": KNOWN["Qwen/Qwen2.5-1.5B-Instruct"],
    "smollm2-135m": Shape(576, 30, 9, 3, 64, 1536, 49152, 2048, tied=True),
    "tiny": Shape(64, 2, 4, 2, 16, 128, 512, 2048, tied=True, qkv_bias=True),
}


@dataclass(frozen=True)
class Variant:
    """What differs from the settings that were asked for, and in which trainings."""

    trainings: tuple[str, ...] = ("grpo", "dpo")
    runtime: dict[str, Any] = field(default_factory=dict)
    align: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    rows: float = 1  # of a forward pass, over those that were asked for


VARIANTS = {
    "base": Variant(("grpo", "dpo", "draw")),
    "trl": Variant(("grpo",), runtime={"sampler": "trl"}),
    "copy": Variant(("grpo",), runtime={"sampler": "copy"}),
    "compiled": Variant(("grpo", "draw"), runtime={"sampler": "compiled"}, engine={"compiled": True}),
    "continuous": Variant(("draw",), engine={"continuous_batching": True}),
    "bfloat16": Variant(runtime={"train_dtype": "bfloat16"}),
    "checkpointing": Variant(runtime={"gradient_checkpointing": True}),
    "micro": Variant(rows=1 / 4),
    "wide": Variant(rows=2),
    "precomputed": Variant(("dpo",), align={"precompute_reference": True}),
    "lora": Variant(("dpo",), align={"lora": {"r": 16, "target_modules": "all-linear"}}),
    "vllm": Variant(("grpo",), runtime={"vllm": {}}),
}
TRAININGS = ("grpo", "dpo", "draw")
SPECIAL = ("<pad>", "<unk>", "<end>", "<user>", "<assistant>")


def save_model(shape: Shape, folder: Path, device: str) -> None:
    """A model with random weights, in bfloat16 for a GPU as models are published, and a tokenizer of made-up words.

    Its layers are Llama's, which are Qwen2's with one bias more: transformers gives a Qwen2 model Qwen2's own tokenizer.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from pns.training.tiny import CHAT_TEMPLATE

    words = [*SPECIAL, *(f"w{i}" for i in range(shape.vocab - len(SPECIAL)))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Metaspace(" ", "never")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", padding_side="left",
        additional_special_tokens=["<user>", "<assistant>"], chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.feed_forward, max_position_embeddings=shape.positions,
        attention_bias=shape.qkv_bias, head_dim=shape.head_dim, tie_word_embeddings=shape.tied, pad_token_id=0,
        eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    assert model.num_parameters() == shape.parameters() + (shape.layers * shape.hidden if shape.qkv_bias else 0)
    model.to(torch.float32 if device == "cpu" else torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Clock:
    """Seconds by part, each without the parts inside it; a GPU is waited for at every border."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.open: list[str] = ["other"]
        self.steps: list[dict[str, float]] = []
        self._since = time.perf_counter()
        self._spent: dict[str, float] = {}

    def now(self) -> float:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def _turn(self) -> None:
        now = self.now()
        self._spent[self.open[-1]] = self._spent.get(self.open[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self.open.append(name)
        try:
            yield
        finally:
            self._turn()
            self.open.pop()

    def step(self, done: int, _: int) -> None:
        """The trainer's progress: what was spent since the last step is this one's."""
        self._turn()
        if done:
            self.steps.append(self._spent)
        self._spent = {}

    def wrap(self, stack: ExitStack, owner: Any, method: str, name: Callable[[], str]) -> None:
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name()):
                return inner(*args, **kwargs)

        stack.enter_context(patch.object(owner, method, timed))


def clocked(clock: Clock, training: str) -> ExitStack:
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from trl import DPOTrainer, GRPOTrainer
    from trl.trainer import dpo_trainer

    stack = ExitStack()
    # The same method reads log-probabilities for the reference and in the loss itself.
    read: Callable[[], str] = lambda: "forward" if torch.is_grad_enabled() else "reference"  # noqa: E731
    if training == "grpo":
        clock.wrap(stack, GRPOTrainer, "_generate", lambda: "sampling")
        clock.wrap(stack, GRPOTrainer, "_get_per_token_logps_and_entropies", read)
        clock.wrap(stack, GRPOTrainer, "_compute_loss", lambda: "forward")
    else:
        clock.wrap(stack, DPOTrainer, "_compute_loss", lambda: "forward")
        # What DPO reads from its reference stands between these two.
        around = dpo_trainer.disable_gradient_checkpointing

        @contextmanager
        def reference(*args: Any, **kwargs: Any) -> Iterator[None]:
            with clock.part("reference"), around(*args, **kwargs):
                yield

        stack.enter_context(patch.object(dpo_trainer, "disable_gradient_checkpointing", reference))
    clock.wrap(stack, Accelerator, "backward", lambda: "backward")
    clock.wrap(stack, AcceleratedOptimizer, "step", lambda: "optimizer")
    return stack


def draw(given: argparse.Namespace, model: Path, shape: Shape, variant: str, clock: Clock) -> None:
    """The completions of a GRPO step, by an engine."""
    from pns.sampling.jobs import Job
    from pns.sampling.make import make_engine

    engine = make_engine(model, EnginePart.model_validate(VARIANTS[variant].engine), device=given.device)
    clock.step(0, 0)
    for step in range(given.warm + given.steps):
        problems = tuple(words(given.prompt_tokens - 2, i, shape.vocab) for i in range(given.prompts))
        job = Job(problems, n=given.generations, temperature=1.0, top_p=1.0, max_new_tokens=given.new_tokens, seed=step)
        with clock.part("sampling"):
            drawn = engine.generate(job)
        assert all(len(rows) == given.generations for rows in drawn)
        clock.step(step + 1, 0)


def words(count: int, seed: int, vocab: int) -> str:
    import random

    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(vocab - len(SPECIAL))}" for _ in range(count))


def told_apart(change: Variant, differs: bool) -> None:
    """Raises ValueError where a variant of other passes has those of `base`, for these sizes."""
    if change.rows != 1 and not differs:
        raise ValueError("its passes are those of base: choose other --micro, --accumulate or rows")


def train(
    given: argparse.Namespace, training: str, model: Path, shape: Shape, variant: str, out: Path
) -> dict[str, Any]:
    """One training under the clock: seconds of each part of a step (medians), tokens, peak memory."""
    import torch

    from pns.records import Pair, Problem

    torch.set_num_threads(given.threads)
    change = VARIANTS[variant]
    runtime = RuntimePart.model_validate(
        {"device": given.device, "threads": given.threads, "checkpoint_every": 10**6, **change.runtime}
    )
    clock, steps, prompt, new = Clock(given.device), given.warm + given.steps, given.prompt_tokens, given.new_tokens
    content = prompt - 2  # the two tokens of the template
    if training == "grpo":
        from pns.training.grpo import train_grpo

        rows = given.prompts * given.generations
        micro = min(rows, max(1, round(min(given.micro, rows) * change.rows)))
        told_apart(change, micro != min(given.micro, rows))
        part = GrpoPart(
            steps=steps, prompts_per_step=given.prompts, num_generations=given.generations, learning_rate=1e-6, beta=0.05,
            micro_batch=micro, max_new_tokens=new,
        )  # fmt: skip
        lengths: list[int] = []

        def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            lengths.extend(map(len, completion_ids))
            return [float(sum(ids) % 97) / 97 for ids in completion_ids]

        problems = [
            Problem(id=str(i), problem=words(content, i, shape.vocab), answer="0") for i in range(steps * given.prompts)
        ]
        with clocked(clock, training):
            train_grpo(model, problems, reward, out, part=part, runtime=runtime, seed=0, progress=clock.step)
        mean_new = statistics.mean(lengths)
    elif training == "draw":
        rows, mean_new = given.prompts * given.generations, float(new)
        draw(given, model, shape, variant, clock)
    else:
        from pns.training.preference import train_preference

        rows, mean_new = 2 * given.pairs, float(new)
        several = max(1, round(given.accumulate / change.rows))
        told_apart(change, several != given.accumulate)
        align = AlignPart.model_validate(
            {
                "learning_rate": 1e-6,
                "batch_size": given.pairs,
                "gradient_accumulation": several,
                "max_length": prompt + new,
            }
            | change.align
        )
        pairs = [
            Pair(
                problem_id=str(i), method="x", prompt=words(content, i, shape.vocab),
                chosen=words(new - 1, 10**6 + i, shape.vocab), rejected=words(new - 1, 2 * 10**6 + i, shape.vocab),
            )
            for i in range(steps * given.pairs)
        ]  # fmt: skip
        with clocked(clock, training):
            train_preference(model, pairs, out, part=align, runtime=runtime, seed=0, progress=clock.step)
    measured = clock.steps[given.warm :]
    names = sorted({name for step in measured for name in step})
    parts = {name: statistics.median(step.get(name, 0.0) for step in measured) for name in names}
    totals = sorted(sum(step.values()) for step in measured)
    return {
        "training": training, "variant": variant, "rows": rows, "prompt_tokens": prompt, "new_tokens": mean_new,
        "seconds": statistics.median(totals), "range": [totals[0], totals[-1]], "parts": parts,
        "peak_bytes": torch.cuda.max_memory_allocated() if given.device == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip


def rates(row: dict[str, Any], shape: Shape, product: float, moved: float, device: str) -> dict[str, Any]:
    """Tokens a second and utilisation of a timed training."""
    rows, new, parts = row["rows"], row["new_tokens"], row["parts"]
    length = row["prompt_tokens"] + new
    # Reading a row forward: logits are needed for the completion alone.
    forward = rows * (shape.forward_flops(length, head=False) + 2 * new * shape.vocab * shape.hidden)
    learning = sum(parts.get(name, 0.0) for name in ("reference", "forward", "backward", "optimizer", "other"))
    found: dict[str, Any] = {
        "train_tokens_a_second": None, "train_mfu": None,
        "samples_tokens_a_second": None, "decode_bandwidth": None,
    }  # fmt: skip
    if row["training"] != "draw":
        found["train_tokens_a_second"] = rows * length / learning
        found["train_mfu"] = (3 + ("reference" in parts)) * forward / learning / product
    if "sampling" in parts:
        width = 4 if device == "cpu" else 2
        read = new * width * shape.parameters() + rows * new * shape.kv_bytes(width) * (row["prompt_tokens"] + new / 2)
        found["samples_tokens_a_second"] = rows * new / parts["sampling"]
        found["decode_bandwidth"] = read / parts["sampling"] / moved
    return found


def _child(queue: Any, log: Path, *args: Any) -> None:
    with log.open("w") as stream:  # the libraries' progress bars and warnings
        for standard in (1, 2):
            os.dup2(stream.fileno(), standard)
    try:
        queue.put(train(*args))
    except Exception as error:  # one variant that does not fit must not cost the others their turn
        queue.put({"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


def apart(log: Path, *args: Any) -> dict[str, Any]:
    """`train` in a process of its own, so that its peak memory is its own."""
    context = server()  # as stages are
    queue = context.Queue()
    process = context.Process(target=_child, args=(queue, log, *args))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.2)
    if queue.empty():
        print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
        return {"failed": f"ended with {process.exitcode}"}
    found = queue.get()
    process.join()
    return dict(found)


def show(row: dict[str, Any]) -> None:
    what = f"{row['training']:5} {row['variant']:13}"
    if "failed" in row:
        print(f"{what} failed: {row['failed']}", flush=True)
        return
    low, high = row["range"]
    ratio = "" if row["ratio"] is None else f", {row['ratio']:.2f} x base"
    parts = ", ".join(f"{name} {seconds:.3g}" for name, seconds in sorted(row["parts"].items(), key=lambda p: -p[1]))
    print(f"{what} {row['seconds']:.3g} s a step ({low:.3g} to {high:.3g}{ratio}): {parts}")
    said = [f"peak {row['peak_bytes'] / 1e9:.3g} GB"]
    if row["samples_tokens_a_second"] is not None:
        said.insert(
            0, f"samples {row['samples_tokens_a_second']:,.0f} tokens/s, decode bandwidth {row['decode_bandwidth']:.0%}"
        )
    if row["train_tokens_a_second"] is not None:
        said.insert(0, f"trains {row['train_tokens_a_second']:,.0f} tokens/s, MFU {row['train_mfu']:.1%}")
    print(f"{'':19} {'; '.join(said)}", flush=True)


def measure(name: str, given: argparse.Namespace, folder: Path, result: dict[str, Any]) -> None:
    """One shape, added to the result, which is written after every row: a machine may be taken away."""
    import torch

    from pns.plan.calibrate import copy, matmul

    shape, model = SHAPES[name], folder / name
    save_model(shape, model, given.device)
    product, moved = matmul(given.device, wall=True), copy(given.device, wall=True)
    if given.device == "cuda":
        torch.cuda.empty_cache()
    print(
        f"{name}: {shape.parameters():,} parameters; matrix product {product / 1e12:.3g} TFLOP/s, copy {moved / 1e9:.3g} GB/s"
    )
    rows: list[dict[str, Any]] = []
    result["shapes"].append(
        {"shape": name, "parameters": shape.parameters(), "product_flops": product, "copy_bytes": moved, "rows": rows}
    )
    for training in given.training:
        base: float | None = None
        for variant in given.variant:
            if training not in VARIANTS[variant].trainings:
                continue
            out = folder / f"{name}-{training}-{variant}"
            row = apart(out.with_suffix(".log"), given, training, model, shape, variant, out)
            shutil.rmtree(out, ignore_errors=True)
            if "failed" in row:
                row = {"training": training, "variant": variant, **row}
            else:
                row |= rates(row, shape, product, moved, given.device)
                base = row["seconds"] if variant == "base" else base
                row["ratio"] = None if base is None or variant == "base" else row["seconds"] / base
            rows.append(row)
            show(row)
            if given.out:
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["qwen2.5-0.5b", "qwen2.5-1.5b"])
    parser.add_argument("--training", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument(
        "--variant",
        nargs="+",
        choices=VARIANTS,
        default=["base", "trl", "compiled", "continuous", "bfloat16", "precomputed"],
    )
    parser.add_argument("--steps", type=int, default=4, help="measured")
    parser.add_argument("--warm", type=int, default=2, help="steps before them")
    parser.add_argument("--prompts", type=int, default=8, help="of a GRPO step")
    parser.add_argument("--generations", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--micro", type=int, default=16, help="completions of a GRPO forward pass, at most")
    parser.add_argument("--pairs", type=int, default=32, help="of a DPO step")
    parser.add_argument("--accumulate", type=int, default=4, help="backward passes of a DPO step")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    given = parse(argv)
    import torch

    torch.set_num_threads(given.threads)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: --device cpu")
    machine = (
        torch.cuda.get_device_name(0) if given.device == "cuda" else f"{platform.machine()}, {given.threads} threads"
    )
    settings = {k: v for k, v in vars(given).items() if k != "out"}
    result: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "settings": settings, "shapes": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.shape:
            measure(name, given, Path(folder), result)
    return result


if __name__ == "__main__":
    main()
