"""The cost model: seconds, bytes and money of sampling, reading, training and judging. Pure functions, no torch.

Seconds are those of all devices at work together; bytes are of one device. A step of the model is a maximum of what
computes and what moves bytes (the roofline model), plus what every layer costs whatever its size. (Source: ours.)

How work is spread: sampling runs a whole copy of the model on each device, each with its share of the rows. Reading in
trainings does so, too; that of other stages is one process on one device (`Spread(1)`).
Training divides what `Spread.divided` says of weights, gradients and optimizer states among `Spread.sharing` devices, and
repeats that on the others: by default all of it among the devices of a node (hybrid sharding, as FSDP2 has it). A step's
rows are divided among all devices, so that more devices than rows find no work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pns.accelerated import Divided
from pns.plan.machine import Machine
from pns.plan.shapes import Shape
from pns.rewards.reward_model import MAX_TOKENS
from pns.sampling.engine import MAX_LOGITS

STATE_NUMBERS = 4
"""Of a trained parameter: weight, gradient and two moments of Adam, in float32 16 bytes (arXiv 1910.02054, 3.1)."""
CHECKPOINT_NUMBERS = 3
"""The same on disk: weight and two moments."""
CHECKPOINTS = 3
"""On disk at a time: two are kept, while a third is written."""
AT_ONCE = 256
"""Most rows that a continuous engine decodes at a time (vLLM's `max_num_seqs`)."""
USABLE = 0.9
"""Share of a device's memory that a continuous engine may fill where nothing says which (vLLM is told)."""
READ_AT_ONCE = 128
"""Most rows that a reward model reads in one forward pass."""


@dataclass(frozen=True)
class Spread:
    """Devices, and how many of them share the state of a training.

    Attributes:
        shard: those that share it, at most.
        divided: what of it they share.
        node: devices of a node, where these are others than `shard`.
        parts: FSDP or ZeRO-3, under which a process has a part of the weights alone, however many processes there are.
        continuous: vLLM draws, else static batches.
        compiled: those are decoded through torch.compile.
    """

    gpus: int = 1
    shard: int = 8
    continuous: bool = False
    compiled: bool = False
    divided: Divided = "everything"
    node: int | None = None
    parts: bool = False

    @property
    def sharing(self) -> int:
        """Devices among which what is divided of a training's state is."""
        return 1 if self.divided == "nothing" else min(self.gpus, self.shard)

    @property
    def holding(self) -> int:
        """Devices that hold the weights of a training together."""
        return self.sharing if self.divided == "everything" else 1

    @property
    def whole(self) -> bool:
        """Whether each process of a training has a whole model, of which it can sample from a copy."""
        return self.holding == 1 and not self.parts

    @property
    def crowded(self) -> bool:
        """Whether those that share it are on several nodes."""
        return self.sharing > (self.node or self.shard)

    @property
    def nodes(self) -> int:
        """Nodes that all devices are on."""
        return math.ceil(self.gpus / (self.node or self.shard))


def decode_step(shape: Shape, machine: Machine, rows: float, context: float, *, layer_seconds: float) -> float:
    """Seconds for one new token of each of `rows` rows that have `context` tokens each, on one device.

    Args:
        layer_seconds: of a layer whatever its size: one of the machine's constants.
    """
    compute = rows * shape.decode_flops(context) / (machine.matmul_tflops * 1e12 * machine.decode_share)
    moved = shape.active() * machine.width + rows * context * shape.kv_bytes(machine.width)
    memory = moved / (machine.bandwidth_gbs * 1e9 * machine.decode_bandwidth_share)
    return max(compute, memory) + shape.layers * layer_seconds


def cache_rows(shape: Shape, machine: Machine, context: float, room: float) -> int:
    """Rows of `context` tokens whose keys and values fit into `room` bytes; at least 1, at most `AT_ONCE`."""
    return max(1, int(min(AT_ONCE, room / (context * shape.kv_bytes(machine.width)))))


def sample_seconds(
    shape: Shape, machine: Machine, spread: Spread, *, rows: int, batch: int, prompt: float, mean: float, longest: int,
    room: float = math.inf,
) -> float:  # fmt: skip
    """Seconds to draw `rows` completions: reading their prompts, and decoding.

    Static batches decode until their longest completion ends, here `longest`. A continuous engine replaces what ends, so
    it decodes the mean length at full width; then the longest completion goes on alone.

    Args:
        batch: rows of a static batch on one device.
        mean, longest: tokens of a completion.
        room: bytes on a device for keys and values, where the engine is continuous.
    """
    mine = math.ceil(rows / spread.gpus)
    read = read_seconds(shape, machine, Spread(1), rows=mine, length=prompt, batch=batch)
    if spread.continuous:
        at_once = min(mine, cache_rows(shape, machine, prompt + mean, room))
        each = machine.graph_seconds
        full = mine * mean / at_once * decode_step(shape, machine, at_once, prompt + mean / 2, layer_seconds=each)
        tail = (longest - mean) * decode_step(shape, machine, 1, prompt + longest, layer_seconds=each)
        return read + full + tail
    whole, rest = divmod(mine, batch)
    each = machine.compiled_seconds if spread.compiled else machine.token_seconds
    steps = whole * decode_step(shape, machine, batch, prompt + longest, layer_seconds=each)
    if rest:
        steps += decode_step(shape, machine, rest, prompt + longest, layer_seconds=each)
    return read + longest * steps


def read_seconds(
    shape: Shape, machine: Machine, spread: Spread, *, rows: int, length: float, batch: int, head: bool = True
) -> float:
    """Seconds to read `rows` texts of `length` tokens: prompts, log-probabilities, scores of a reward model."""
    mine = math.ceil(rows / spread.gpus)
    compute = mine * shape.forward_flops(length, head=head) / (machine.matmul_tflops * 1e12 * machine.forward_share)
    return compute + math.ceil(mine / batch) * shape.layers * machine.pass_seconds / 3


def read_bytes(shape: Shape, machine: Machine, *, rows: int, longest: float, head: bool = True) -> float:
    """Bytes at work on one device while texts of up to `longest` tokens are read: one layer at a time, and logits.

    A layer has its input and its norm, and three of the feed-forward. Logits are there as they come, in float32, and once
    more under the sum of their exponentials.
    """
    most = MAX_LOGITS / shape.vocab if head else MAX_TOKENS
    tokens = min(min(rows, READ_AT_ONCE) * longest, max(most, longest))
    layer = machine.width * (2 * shape.hidden + 3 * shape.feed_forward)
    return tokens * (layer + (shape.vocab * (machine.width + 8) if head else 0))


def rows_a_pass(rows: int, accumulation: int, gpus: int, unit: int = 1) -> int:
    """Rows of one backward pass on one device: those of the recipe, or fewer where there are more devices than passes."""
    units = rows // unit
    return unit * max(1, min(math.ceil(units / accumulation), math.ceil(units / gpus)))


_MOVED: dict[Divided, tuple[int, int]] = {"everything": (3, 0), "state": (1, 1), "optimizer": (0, 2), "nothing": (0, 0)}
"""How often all weights' worth of numbers goes among those that share a state: in each pass, and once a step."""


def step_seconds(
    shape: Shape, machine: Machine, spread: Spread, *, rows: int, accumulation: int, length: float, unit: int = 1,
    head: bool = True, again: bool = False, trained: int | None = None, stored: int = 4,
) -> float:  # fmt: skip
    """Seconds of one optimizer step on `rows` rows of `length` tokens.

    A pass gathers divided weights twice and scatters divided gradients once, beside its computing; once a step, those that
    repeat the same part add up their gradients, and weights that only the optimizer's part changes are gathered.

    Args:
        unit: rows that stay together (2 of a pair).
        again: activations are computed again.
        trained: parameters with gradients, where these are not all.
        stored: bytes of a number of a gradient.
    """
    each = rows_a_pass(rows, accumulation, spread.gpus, unit)
    rounds = math.ceil(rows / (each * spread.gpus))
    rate = machine.matmul_tflops * 1e12 * machine.train_share
    compute = each * shape.train_flops(length, head=head, again=again) / rate + shape.layers * machine.pass_seconds
    share, weights = spread.sharing, shape.parameters(head=head)
    in_pass, in_step = _MOVED[spread.divided]
    within = machine.network_gbs if spread.crowded else machine.link_gbs
    once = machine.width * weights * (share - 1) / share / (within * 1e9)
    copies = math.ceil(spread.gpus / share)
    gradients = stored * (weights if trained is None else trained) / share
    between = machine.network_gbs if spread.nodes > 1 else machine.link_gbs
    added = 2 * gradients * (copies - 1) / copies / (between * 1e9) + in_step * once
    return rounds * max(compute, in_pass * once) + added + machine.step_seconds


def state_bytes(
    shape: Shape, spread: Spread, *, width: int, head: bool = True, trained: int | None = None, stored: int = 4, working: int = 2
) -> float:  # fmt: skip
    """Bytes of weights, gradients and optimizer states on one device.

    DeepSpeed keeps what it does not divide in the numbers that it computes with: of 16 bytes a parameter ZeRO-2 divides 14
    (arXiv 1910.02054, section 3).

    Args:
        width: bytes of a weight that is not trained.
        stored: bytes of a number of a trained parameter: of its weight, gradient and moments (`runtime.train_dtype`).
        working: bytes of a weight and of a gradient that is whole where others are divided.
    """
    weights, each = shape.parameters(head=head), STATE_NUMBERS * stored
    changed = weights if trained is None else trained
    if spread.sharing > 1 and spread.holding == 1:
        kept = working * (2 if spread.divided == "optimizer" else 1)  # of a trained one, with its gradient or without
        return working * (weights - changed) + kept * changed + (each - kept) * changed / spread.sharing
    return (each * weights if trained is None else width * weights + each * trained) / spread.sharing


def reference_bytes(shape: Shape, machine: Machine, spread: Spread, *, head: bool = True, loaded: int = 4) -> float:
    """Bytes of a training's reference on one device: divided as the weights are; under ZeRO-1 and -2 whole, as computed with."""
    each = machine.width if spread.sharing > spread.holding else loaded
    return each * shape.parameters(head=head) / spread.holding


def train_bytes(
    shape: Shape, machine: Machine, spread: Spread, *, rows: int, accumulation: int, length: float, unit: int = 1,
    head: bool = True, again: bool = False, trained: int | None = None, reference: bool = False, stored: int = 4,
    loaded: int = 4,
) -> float:  # fmt: skip
    """Bytes on one device in training: state, a reference model, weights at work, activations, logits.

    Args:
        length: tokens of the longest row, to which its batch is padded.
        reference: a second model is held for the loss.
        stored: bytes of a number of a trained parameter's state.
        loaded: bytes of a weight that is not trained: of the reference, and of what adapters leave as it is.
    """
    width, weights = machine.width, shape.parameters(head=head)
    held = state_bytes(shape, spread, width=loaded, head=head, trained=trained, stored=stored, working=width)
    if reference:
        held += reference_bytes(shape, machine, spread, head=head, loaded=loaded)
    # Where the state is float32 and the work is not, or where the state is shared, layers are at work in a copy.
    if width < 4 or spread.shard > 1:
        held += width * min(weights, 2 * shape.layer() + shape.vocab * shape.hidden)
    tokens = rows_a_pass(rows, accumulation, spread.gpus, unit) * length
    logits = shape.vocab * (width + 8) if head else 0
    return held + tokens * (shape.activation_bytes(width, again=again) + logits)


def sample_bytes(
    shape: Shape, machine: Machine, spread: Spread, *, rows: int, batch: int, context: float, beside: float = 0.0,
    share: float | None = None, shared: bool = False,
) -> float:  # fmt: skip
    """Bytes on one device in sampling: weights, keys and values of the rows at once, what lies beside them.

    A continuous engine takes what there is up to `USABLE`, and at least the cache of one row.

    Args:
        beside: bytes of other models, or of a training, on the same device.
        share: bytes that the engine takes for all it has, whatever it needs (vLLM); 0 where it is not on the device.
        shared: the weights are among what lies beside.
    """
    if share is not None:
        return share + beside
    mine = math.ceil(rows / spread.gpus)
    held = beside if shared else machine.width * shape.parameters() + beside
    row = context * shape.kv_bytes(machine.width)
    if spread.continuous:
        return max(min(held + min(mine, AT_ONCE) * row, USABLE * machine.memory_gb * 1e9), held + row)
    return held + min(mine, batch) * (row + shape.vocab * 8)


def judge_seconds(calls: float, rounds: int, seconds: float, concurrency: int) -> float:
    """Seconds to wait for `calls` verdicts of `seconds` each, in `rounds` equal lots that wait for each other."""
    return rounds * math.ceil(calls / rounds / concurrency) * seconds if calls else 0.0


def judge_cost(calls: float, tokens_in: float, tokens_out: float, price_in: float, price_out: float) -> float:
    """Price of `calls` verdicts; prices are for a million tokens, in any currency."""
    return calls * (tokens_in * price_in + tokens_out * price_out) / 1e6


def checkpoint_bytes(shape: Shape, *, head: bool = True, trained: int | None = None, stored: int = 4) -> float:
    """Bytes on disk, at most, while a training writes checkpoints; `stored` as in `state_bytes`."""
    weights = shape.parameters(head=head) if trained is None else trained
    return CHECKPOINTS * CHECKPOINT_NUMBERS * stored * weights
