"""What a sweep will do and need, before anything is loaded: `plan=true`.

Sizes come from the architecture in the model's YAML or the hub's small config.json, never from weights.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from losslab import adapters, cost
from losslab.batches import Schedule
from losslab.checks import objective_class
from losslab.data import local_files
from losslab.files import named
from losslab.launch import count
from losslab.online import PPO, Online, questions
from losslab.pretrained import load_config
from losslab.records import Cell
from losslab.schema import BASE, Config, Device, Precision, Recompute

GIB = 2**30
PROCESS = 7e8  # bytes of Python with torch and transformers


@dataclass(frozen=True)
class Plan:
    cell: Cell
    state: str  # done | to score | interrupted | failed | to run
    steps: int | None  # None where the number of rows is known only after the download
    tokens: int | None  # an upper bound: rows of the full length
    parameters: int
    memory: float  # bytes on each device at the peak of training


def make(config: Config) -> Plan:
    """The plan of one cell. Raises ValueError when its data set or architecture cannot be found."""
    cell, architecture = Cell.of(config), describe(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
    parameters = sum(p.numel() for p in model.parameters())
    if config.names.loss == BASE:
        return Plan(cell, state(cell, config), 0, 0, parameters, 2.0 * parameters)
    rows = rows_of(config)
    online = online_objective(config)
    schedule = questions.schedule if online else Schedule.of
    steps = None if rows is None else schedule(config.train, config.seed, rows).steps
    length = config.train.max_length * (online.samples if online else 1)
    tokens = None if steps is None else steps * config.train.batch_size * length
    return Plan(cell, state(cell, config), steps, tokens, parameters, memory(config, architecture, parameters))


def online_objective(config: Config) -> Online | None:
    """The online objective of a cell, None for any other."""
    return instantiate(config.loss) if issubclass(objective_class(config), Online) else None


def state(cell: Cell, config: Config) -> str:
    if config.force:
        return "to run again"
    if cell.done(config):
        return "done"
    if config.names.loss != BASE and cell.trained(config):
        return "to score"
    return {"failed": "failed, to resume", "interrupted": "interrupted, to resume"}.get(
        cell.state().get("state", ""), "to run"
    )


def describe(config: Config) -> PretrainedConfig:
    facts = dict(config.model.architecture)
    if facts:
        return AutoConfig.for_model(**facts)
    path, revision = adapters.base(config.model.path) or (config.model.path, config.model.revision)
    return load_config(replace(config.model, path=path, revision=revision))


def rows_of(config: Config) -> int | None:
    """Rows that training will see at most; None for a hub data set of unknown size."""
    dataset = config.dataset
    if dataset.source is not None and not named(dataset.path):  # the model has not answered yet
        return None
    if not (files := local_files(dataset)):
        return dataset.rows
    rows = 0
    for file in files:
        if file.endswith(".parquet"):
            import pyarrow.parquet as parquet

            rows += parquet.ParquetFile(file).metadata.num_rows
        else:
            with Path(file).open("rb") as stream:
                rows += sum(1 for line in stream if line.strip())
    return rows if dataset.rows is None else min(rows, dataset.rows)


def memory(config: Config, architecture: Any, parameters: int) -> float:
    """Estimated peak bytes on each device: weights, gradients and Adam's two moments, sharded over the workers;
    the gathered weights of the outermost group and of two layers; activations of one micro-batch; the head's chunk.
    Online training shards nothing, and what generates the answers takes memory that is not counted.

    On a CPU also what the interpreter and its libraries take. What the allocator there keeps beyond that is not
    counted: it was a few per cent to two thirds of the estimate in runs of five shapes.
    """
    workers, machine, train = count(config.machine), config.machine, config.train
    width, layers, inner = architecture.hidden_size, architecture.num_hidden_layers, architecture.intermediate_size
    heads = architecture.num_attention_heads
    kv = width // heads * (getattr(architecture, "num_key_value_heads", None) or heads)
    computed, held = (2 if precision == Precision.bf16 else 4 for precision in (train.precision, train.weights))
    # Trained: weight, gradient and Adam's two moments. With adapters the weights are frozen, and little is trained.
    state = 0 if machine.cpu_offload else parameters * (computed if config.adapter.rank else 4 * held)
    tied = getattr(architecture, "tie_word_embeddings", False)
    outer = architecture.vocab_size * width * (1 if tied else 2)
    layer = (parameters - outer) / layers
    cuda = machine.device == Device.cuda or (machine.device == Device.auto and torch.cuda.is_available())
    gathered = computed * (outer + 2 * layer if workers > 1 or cuda else parameters)
    products, rest = computed * (5 * width + 2 * kv + 2 * inner), computed * (3 * width + 2 * inner) + 4 * 4 * width
    per_token = {
        Recompute.none: layers * (products + rest),
        Recompute.selective: layers * products + rest,
        Recompute.full: layers * computed * width + products + rest,
    }[machine.recompute]
    tokens = max(machine.micro_batch_tokens, train.max_length)
    if train.micro_batch is not None:
        tokens = train.micro_batch * train.max_length
    head = (0 if config.adapter.rank else 4 * outer / (1 if tied else 2)) + 6 * 2**26
    process = 0 if cuda else PROCESS
    if "reference_distribution" in objective_class(config).needs and not config.adapter.rank:
        state += computed * parameters  # a frozen copy
    if online := online_objective(config):  # every worker holds all: the policy, a value model, a reference
        reference = computed * parameters if online.kl else 0
        state = workers * (state + reference + 4 * held * parameters * isinstance(online, PPO))
        head = 3 * 4 * tokens * architecture.vocab_size  # logits, their logarithms and their gradient
    return state / workers + gathered + per_token * tokens + head + process


def show(configs: list[Config]) -> None:
    """Print the plan of a sweep."""
    plans = [make(config) for config in configs]
    config = configs[0]
    table = Table(title=f"{config.sweep.name}: {len(plans)} cells", title_justify="left")
    for column in ("cell", "state"):
        table.add_column(column, overflow="fold")
    for column in ("steps", "tokens ≤", "parameters", "memory/device ≈"):
        table.add_column(column, justify="right")
    for plan in plans:
        table.add_row(
            plan.cell.folder.name, plan.state, number(plan.steps), number(plan.tokens), number(plan.parameters),
            f"{plan.memory / GIB:.1f} GiB",
        )  # fmt: skip
    console = Console()
    console.print(table)
    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(0).total_memory
        if max(plan.memory for plan in plans) > room:
            console.print(
                f"warning: a device has {room / GIB:.0f} GiB; lower machine.micro_batch_tokens or use more workers"
            )
    samples = {name: benchmark.rows for name, benchmark in config.benchmark.items()}
    console.print(
        f"workers: {count(config.machine)} on this machine; batch {config.train.batch_size} sequences, "
        f"micro-batches of up to {config.machine.micro_batch_tokens} tokens on each\n"
        f"scoring: {config.names.eval}, {config.eval.samples} samples of each problem of "
        + ", ".join(f"{name} ({rows})" if rows else name for name, rows in samples.items())
        + "\n"
        + cost.sentence(cost.of(configs, [(plan.parameters, plan.tokens or 0) for plan in plans]))
        + f"\nrecords: {Path(config.machine.results) / 'cells'}\n"
        f"tables:  {Path(config.machine.results) / 'tables' / config.sweep.name}",
        highlight=False,
    )


def number(value: int | None) -> str:
    """1543714304 as 1.54B; `?` for what is not known."""
    if value is None:
        return "?"
    if value < 10_000:
        return str(value)
    power, short = 0, float(value)
    while short >= 999.5:
        power, short = power + 1, short / 1000
    return f"{short:.3g}{' kMBT'[power]}"
