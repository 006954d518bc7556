"""Estimates the memory that training needs on each device from the architecture alone, and reads how much there is.

Sizes come from the architecture in the model's YAML or the hub's small config.json, never from weights.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from losslab.config.choices import Device, Recompute, Sharding
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Precision
from losslab.distributed import gpus
from losslab.distributed.environment import available_cores, is_worker
from losslab.distributed.worker_count import worker_count, workers_per_node
from losslab.models.chunk_size import FLOAT32_ELEMENTS, chunk_tokens
from losslab.objectives.online import OPD, PPO
from losslab.planning import cost
from losslab.planning.architecture import describe_reference, reference_parameters

GIB = 2**30
PROCESS = 3.3e8  # bytes of Python with torch and transformers
SKLEARN = 1.0e8  # bytes of scikit-learn, which transformers imports where it is installed
CELL = 4 * GIB  # bytes of a small cell on a CPU, with its engine
TILE = (4096, 32768)  # tokens and vocabulary that TRL's divergence takes at once
FRAGMENTS = 1.05  # times what is in use on a CPU: the allocator's overhead


@dataclass(frozen=True)
class Devices:
    """What one cell trains on: a worker for each device."""

    nodes: int
    each: int  # devices on one node
    gpu: bool

    @classmethod
    def of(cls, machine: MachineConfig, job: Mapping[str, Any] | None = None) -> "Devices":
        """Those of this machine, or of a job with the settings of conf/hydra/launcher/slurm.yaml.

        Raises ValueError when the job has fewer GPUs than workers.
        """
        if job is None:
            gpu = machine.device == Device.cuda or (machine.device == Device.auto and gpus.count() > 0)
            each = int(os.environ["LOCAL_WORLD_SIZE"]) if is_worker() else workers_per_node(machine)
            return cls(worker_count(machine) // each, each, gpu)
        each = 0 if machine.device == Device.cpu else job["gpus_per_node"] or 0
        if each and (machine.workers or 1) > each:
            raise ValueError(
                f"machine.workers={machine.workers}, but hydra.launcher.gpus_per_node={each}: make them equal"
            )
        return cls(job["nodes"], machine.workers or each or 1, each > 0)

    @property
    def count(self) -> int:
        return self.nodes * self.each


def on_device(
    config: Config,
    architecture: Any,
    parameters: int,
    devices: Devices | None = None,
    steps: Sequence[int] | None = None,
) -> float | None:
    """Estimated peak bytes on each device: weights and Adam's two moments, sharded over the workers; the gathered
    weights of the outermost group and of two layers; activations and loss of one micro-batch with the gradients of
    those before it in a step, or all gradients after it, whichever is more. None for an architecture whose
    layers are not those of a transformer. Online training shards nothing, and what generates the answers takes memory
    that is not counted.

    `steps` are the tokens of each step. Where they are not known, a step may have as many as its rows can be long.

    On a CPU also what the interpreter and its libraries take, and the copy of weights and moments that is written as a
    checkpoint; training returns freed memory to the system there, except 256 MiB (`trim_malloc`).
    """
    machine, train = config.machine, config.train
    devices = devices or Devices.of(machine)
    architecture = architecture.get_text_config(decoder=True)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    width, layers, heads, vocabulary = (getattr(architecture, name, None) for name in names)
    if not (width and layers and heads and vocabulary):
        return None
    inner = getattr(architecture, "intermediate_size", None) or 4 * width  # as in GPT-2 and its kin
    inner = max(inner) if isinstance(inner, list) else inner
    kv = width // heads * (getattr(architecture, "num_key_value_heads", None) or heads)
    computed, held = (2 if precision == Precision.bf16 else 4 for precision in (train.precision, train.weights))
    # Trained: weight and Adam's two moments. With adapters the weights are frozen, and little is trained.
    online = cost.online(config)
    frozen = 4 if online else computed  # bytes of a weight beside adapters: TRL's model is one in float32
    state = 0 if machine.cpu_offload else parameters * (frozen if config.adapter.rank else 3 * held)
    tied = getattr(architecture, "tie_word_embeddings", False)
    outer = vocabulary * width * (1 if tied else 2)
    layer = (parameters - outer) / layers
    gathered = computed * _gathered(config, devices, held == computed, parameters, outer + 2 * layer)
    copied_reference = config.reference.path or not config.adapter.rank or online
    if "reference_distribution" in config.objective.needs and copied_reference:
        state += computed * (reference_parameters(config) or parameters)  # frozen
    shards = devices.each if machine.sharding == Sharding.hybrid else devices.count
    if online:  # every worker holds all: the policy, a value model, a reference
        shards = 1
        state += (computed * parameters if getattr(online, "kl", 0) else 0) + 4 * held * parameters * isinstance(
            online, PPO
        )
    once = _activations(config, devices, (width, kv, inner), layers)
    whole, earlier = _gradients(config, devices, held, parameters, parameters / shards)
    of_steps = (
        tokens * once + _head(config, devices, (vocabulary, width), tokens) + (earlier if several else 0)
        for tokens, several in _micro_batches(config, devices, steps)
    )
    peak = state / shards + gathered + max(whole, *of_steps)
    if devices.gpu:
        return peak
    # There the copy for a checkpoint and the process take the same memory.
    learned = parameters * (2 if isinstance(online, PPO) else 1)
    copied = 0 if config.adapter.rank else 3 * held * learned / shards
    return FRAGMENTS * (peak + copied + PROCESS + (SKLEARN if find_spec("sklearn") else 0))


def _gathered(config: Config, devices: Devices, as_held: bool, parameters: int, at_once: float) -> float:
    """Weights that are there beside the shards: those gathered at once, all, or none where they are used as held."""
    machine, rank = config.machine, config.adapter.rank
    # As `models.layout.sharded`: one GPU without FSDP2 has copies of all weights.
    wrapped = machine.cpu_offload or (config.train.weights == Precision.bf16 and not rank)
    sharded = devices.count > 1 or (devices.gpu and wrapped)
    if not sharded and (rank or as_held) and not cost.online(config) and not machine.cpu_offload:
        return 0
    return at_once if sharded and machine.reshard else parameters


def _gradients(config: Config, devices: Devices, held: int, parameters: int, of_shard: float) -> tuple[float, float]:
    """Bytes of the gradients at the end of a step, and of those of its earlier micro-batches.

    These are summed in float32; of bfloat16 weights the gradient of the last micro-batch is there beside the sum.
    """
    if config.adapter.rank:
        return 0.0, 0.0
    whole, earlier = (0.0, 0.0) if config.machine.cpu_offload else (of_shard * (held + 4 * (held == 2)), of_shard * 4)
    if devices.count > 1 and not config.machine.reshard:
        earlier += 4 * parameters  # reduced after the last micro-batch of a step
    return whole, earlier


def _micro_batches(config: Config, devices: Devices, steps: Sequence[int] | None) -> Iterator[tuple[int, bool]]:
    """The tokens of the largest micro-batch of a step, and whether its step has several, for each kind of step."""
    budget = _micro_batch_tokens(config)
    if steps is None or config.train.micro_batch is not None:
        unit = _unit(config)  # which no micro-batch splits
        units = -(-cost.step_tokens(config) // unit // devices.count)  # of the device that has the most
        yield min(budget, units * unit), False
        if units * unit > budget:
            yield min(budget, -(-units // 2) * unit), True
        return
    for tokens in steps:
        count = -(-tokens // (budget * devices.count))
        yield -(-tokens // (count * devices.count)), count > 1


def _micro_batch_tokens(config: Config) -> int:
    """The most tokens of a micro-batch."""
    machine, train = config.machine, config.train
    assert isinstance(machine.micro_batch_tokens, int), "losslab.planning.sizing resolves it"
    unit = _unit(config)  # one above the budget stands alone
    return max(machine.micro_batch_tokens, unit) if train.micro_batch is None else train.micro_batch * unit


def _unit(config: Config) -> int:
    """The most tokens of a row, or of a pair."""
    return config.train.max_length * (1 if config.dataset.rejected_column is None else 2)


def _head(config: Config, devices: Devices, shape: tuple[int, int], tokens: int) -> float:
    """Bytes of the loss of a micro-batch: chunks of logits, float32 blocks, the weight's gradient, copies of weights.

    Args:
        shape: of the output weight, the vocabulary and the width of the hidden state.
    """
    vocabulary, width = shape
    if online := cost.online(config):
        if isinstance(online, OPD):  # logits, their logarithms and gradient, of policy and teacher, in tiles
            return 2 * 3 * 4 * min(tokens, TILE[0]) * min(vocabulary, TILE[1])
        return 3 * 4 * tokens * vocabulary
    heads = 1 + ("reference_distribution" in config.objective.needs)  # the reference's logits are beside the policy's
    computed = 2 if config.train.precision == Precision.bf16 else 4
    buffers = heads + bool(getattr(config.objective, "row_term", None))
    rows = chunk_tokens(tokens, vocabulary, computed, "cuda" if devices.gpu else "cpu", buffers)
    gradient = 0 if config.adapter.rank else 4 * vocabulary * width
    if devices.gpu:
        return buffers * computed * rows * vocabulary + gradient
    logits = buffers * 4 * rows * vocabulary + heads * 2 * 4 * FLOAT32_ELEMENTS["cpu"]
    if computed == 4:
        return logits + gradient
    # Without instructions for bfloat16 the logits are float32, and each head has a copy of its weight in float32 for
    # the whole micro-batch (`models.cpu_products`). A plan, without torch to ask, takes every CPU for one of these.
    reference = describe_reference(config) if heads > 1 else None
    widths = [width, reference.get_text_config(decoder=True).hidden_size if reference else width][:heads]
    return logits + gradient + 4 * vocabulary * sum(widths)


def _activations(config: Config, devices: Devices, sizes: tuple[int, int, int], layers: int) -> float:
    """Bytes of each token of a micro-batch that backward reads, of all layers.

    Args:
        sizes: widths of the hidden state, of the keys or values of all heads, and of the inside of the MLP.
    """
    machine, (width, kv, inner) = config.machine, sizes
    computed, sharded = 2 if config.train.precision == Precision.bf16 else 4, devices.count > 1 or devices.gpu
    products, rest = computed * (5 * width + 2 * kv + 2 * inner), computed * (3 * width + 2 * inner) + 4 * 4 * width
    whole = products + rest
    if devices.gpu:  # without copies of grouped keys and values; the norms take float32 copies of their inputs
        whole = computed * (6 * width + 2 * kv + 4 * inner) + (8 * width if computed == 2 else 0)
        if machine.compile:  # what follows from kept tensors is recomputed for the products that read it
            whole = computed * (4 * width + 2 * kv + 2 * inner)
    # A single process on a CPU computes by autocast, which leaves the sums between layers in float32.
    stream = computed if sharded else 4
    return {
        Recompute.none: layers * whole,
        Recompute.selective: layers * products + rest,
        Recompute.full: layers * stream * width + products + rest,
    }[machine.recompute]


def room(gpu: bool, root: Path = Path("/")) -> float | None:
    """Bytes of the smallest visible GPU; without `gpu` those that this process may still take; None if unknown.

    The latter are the machine's free memory, but no more than what is left to the control group (version 2) of this
    process, such as that of a SLURM job or a container. `root` is the root of the file system.
    """
    if gpu:
        return gpus.memory()
    free = _numbers(root / "proc/meminfo").get("MemAvailable:")
    return min([*([1024.0 * free] if free is not None else []), *_left(root)], default=None)


def at_once(threads: int | None, needed: float = CELL) -> int:
    """Cells of `threads` CPU threads (None: of all) and `needed` bytes that this machine has room for: 1 or more."""
    cores, left = available_cores(), room(gpu=False)
    return max(1, min(cores // (threads or cores), cores if left is None else int(left / needed)))


def _left(root: Path) -> Iterator[float]:
    """The bytes left to the control group of this process and to each group that contains it."""
    top, lines = root / "sys/fs/cgroup", _lines(root / "proc/self/cgroup")
    groups = [top / line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")]
    for folder in (folder for group in groups for folder in (group, *group.parents) if folder.is_relative_to(top)):
        limit, used = ("".join(_lines(folder / f"memory.{name}")) for name in ("max", "current"))
        if limit.isdecimal() and used.isdecimal():  # without a limit it says `max`
            dropped = _numbers(folder / "memory.stat").get("inactive_file", 0)  # when memory is short
            yield float(int(limit) - int(used) + dropped)


def _numbers(file: Path) -> dict[str, int]:
    """The numbers in a file of the kernel, by the word before each."""
    return {line.split()[0]: int(line.split()[1]) for line in _lines(file) if len(line.split()) > 1}


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
