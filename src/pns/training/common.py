"""What every trainer shares: arguments, exact resumption, metrics, progress, saving without pickles."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from pns.errors import UserError
from pns.processes import OtherProcess, is_main, world_size
from pns.recipe import RuntimePart
from pns.run import write_atomic
from pns.sampling.engine import assistant, user
from pns.training.batches import divided

Progress = Callable[[int, int], None]
MARKER = "COMPLETE"
METRICS = "metrics.jsonl"
TRAINED = "trained"
_PARTED: list[Any] = []
"""Process groups that have ended, for as long as this process lives; see `part_ways`."""
LET_GO_SECONDS = 0.1


class Durable(TrainerCallback):
    """Marks a checkpoint complete once all of it is written, and keeps metrics.jsonl in step with the trainer's state."""

    def __init__(self, out: Path, progress: Progress) -> None:
        self.out, self.progress = out, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A resumed training must not log its steps twice, so the file starts from the checkpoint's own history."""
        if not is_main():
            return
        self.progress(state.global_step, state.max_steps)
        write_atomic(self.out / METRICS, "".join(_line(row) for row in state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The trainer has just appended to its history."""
        if not is_main():
            return
        with (self.out / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(_line(state.log_history[-1]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report optimizer steps."""
        self.progress(state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after weights, optimizer, scheduler, random states and trainer state are on disk, each process's own."""
        PartialState().wait_for_everyone()
        if not is_main():
            return
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARKER).touch()


# Times differ between runs, and a resumed trainer counts tokens and its mean loss from the resume on; none of them may
# stand in a published result. Keys are sorted because a history read from a checkpoint is.
LEFT_OUT = frozenset(
    {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "step_time",
        "total_flos",
        "train_loss",
        "num_tokens",
    }
)


def _line(row: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in row.items() if k not in LEFT_OUT}, sort_keys=True) + "\n"


def arguments(
    out: Path, runtime: RuntimePart, *, name: str, batch: int, micro: int, seed: int, steps: int, **own: Any
) -> dict[str, Any]:
    """Keyword arguments that all our trainer configs share; `own` is added last.

    Training is budgeted in steps. Checkpoints hold what an exact resume needs; two are kept, since the older one is all
    that is left when a kill hits the writing of the newer. Every step is logged: a mean over several steps would forget
    those before a checkpoint.

    Args:
        batch, micro: rows of a step, of all processes, and of a pass, of one; see `pns.training.batches.divided`, which
            raises UserError where they cannot be divided. `name` says whose they are.
    """
    cpu = runtime.device == "cpu"
    rows, passes = divided(batch, micro, name, world_size())
    return {
        **({"ddp_backend": "gloo"} if cpu and world_size() > 1 else {}),
        "output_dir": str(out / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": passes,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": cpu,
        "bf16": not cpu,
        "gradient_checkpointing": runtime.gradient_checkpointing,
        "report_to": list(runtime.report_to),
        "save_strategy": "steps",
        "save_steps": min(runtime.checkpoint_every, steps),
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_first_step": True,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        **own,
    }


def train_dtype(runtime: RuntimePart) -> str:
    """In which dtype a training loads its weights: on a GPU the recipe's (computing is in bfloat16 either way)."""
    return "auto" if runtime.device == "cpu" else runtime.train_dtype


def last_checkpoint(out: Path) -> str | None:
    """The newest complete checkpoint; half-written ones are removed, by the first process."""
    found = []
    for path in (out / "checkpoints").glob("checkpoint-*"):
        if (path / MARKER).is_file():
            found.append((int(path.name.rsplit("-", 1)[1]), path))
        elif is_main():
            shutil.rmtree(path)
    return str(max(found)[1]) if found else None


def train(trainer: Any, out: Path, progress: Progress) -> list[dict[str, Any]]:
    """Train to the end, from the last complete checkpoint if there is one; publish model, tokenizer and metrics.

    A training that had ended when its stage was killed is not repeated. Returns the log history, times left out; raises
    OtherProcess in every process but the first. The others wait until it has published, and then the processes part.
    """
    done = out / TRAINED
    if not done.is_file():
        trainer.add_callback(Durable(out, progress))
        checkpoint = last_checkpoint(out)
        trainer.accelerator.wait_for_everyone()
        trainer.train(resume_from_checkpoint=checkpoint)
        _publish(trainer, out)
    part_ways()
    if not is_main():
        raise OtherProcess
    done.touch()
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]


def part_ways() -> None:
    """End what binds the processes of a training, in all of them at once: each is alone from here on.

    While DeepSpeed's ZeRO-3 is on, whatever the first process loads would be divided among all, and it would wait for those
    that have ended; FSDP and generation ask whether there is a process group.
    """
    unset_hf_deepspeed_config()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # A thread of Gloo's wants Python's lock to let go of its last tensor. DDP's reducer, which goes with the trainer, would
        # wait for that thread with the lock in its hand, were it the last that holds the group: so it never is, and the threads
        # have time before this process may end.
        _PARTED.append(torch.distributed.group.WORLD)
        PartialState().wait_for_everyone()  # NCCL's communicators end together
        time.sleep(LET_GO_SECONDS)
        torch.distributed.destroy_process_group()


def _publish(trainer: Any, out: Path) -> None:
    """The trained model as one directory, by the first process. Raises UserError where its weights are not numbers."""
    accelerator = trainer.accelerator
    model, weights = accelerator.unwrap_model(trainer.model), None
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        # Every process holds a part: all take part in putting it together.
        weights = accelerator.get_state_dict(trainer.model_wrapped)
    if not is_main():
        return
    if not all(bool(torch.isfinite(p).all()) for p in (model.parameters() if weights is None else weights.values())):
        raise UserError("training ended with weights that are not numbers", file=out, remedy="lower the learning rate")
    if not trainer.args.use_cpu:  # trained in float32, perhaps: half of that is enough for all that follows
        model = model.to(torch.bfloat16)
        weights = None if weights is None else {name: w.to(torch.bfloat16) for name, w in weights.items()}
    if hasattr(model, "merge_and_unload"):  # adapters: kept by themselves, and merged for all that follows
        model.save_pretrained(out / "adapter", state_dict=weights)
        model, weights = _merged(model, out / "adapter", whole=weights is None), None
    save_model(model, trainer.processing_class, out / "model", weights)


def _merged(model: Any, adapter: Path, *, whole: bool) -> Any:
    """The model with its adapters merged; read anew from its base where this process holds a part of it alone."""
    if whole:
        return model.merge_and_unload()
    from peft import AutoPeftModelForCausalLM

    unset_hf_deepspeed_config()  # the first process is alone here: no other would take its part of the base
    return AutoPeftModelForCausalLM.from_pretrained(adapter, dtype="auto").merge_and_unload()


def save_model(model: Any, tokenizer: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save weights (safetensors), configuration and tokenizer; never the pickled training arguments.

    Args:
        weights: in place of the model's own, where that holds a part alone.
    """
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    tokenizer.save_pretrained(folder)


def check_lengths(
    tokenizer: Any, rows: Sequence[tuple[str, str]], limit: int, what: str, key: str, allowed_by: str | None = None
) -> None:
    """Refuse rows that a trainer would cut or drop. `rows` are (problem, response).

    Args:
        key: the recipe's key for the limit.
        allowed_by: the setting, as `key=value`, with which such rows are cut and counted; None where there is none.

    Raises UserError with how many of them are over `limit` tokens and how long the longest is.
    """
    over, longest = over_length(tokenizer, rows, limit)
    if over:
        ways = [
            f"{key}={longest}",
            *([] if allowed_by is None else [f"{allowed_by} (their ends are cut, and counted)"]),
        ]
        raise UserError(
            f"{over} of {len(rows)} {what} are longer than {limit} tokens (the longest: {longest})",
            field=key,
            remedy=f"set {' or '.join(ways)}, or leave the long problems out; a trainer would cut or drop them silently",
        )


def over_length(tokenizer: Any, rows: Sequence[tuple[str, str]], limit: int) -> tuple[int, int]:
    """How many (problem, response) rows are over `limit` tokens in the chat template, and the tokens of the longest."""
    texts = [tokenizer.apply_chat_template([user(p), assistant(r)], tokenize=False) for p, r in rows]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else [0]
    return sum(n > limit for n in lengths), max(lengths)
