"""The typed schema behind `conf/`: what every key means, and the checks that need no model.

Hydra composes YAML; `losslab.composition.compose` merges the result into `Config`, so an unknown key or a wrong type is
refused before anything is loaded. This module imports nothing heavy.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

if TYPE_CHECKING:
    from losslab.objectives import Objective
    from losslab.objectives.base import Base
    from losslab.objectives.online import Online

BASE = "base"  # the name of the loss in the records of cells that are scored without training
EMBEDDED = "embedded"  # the path of a model, data set or benchmark that is made on the spot (losslab.data.toy_task)


class Choice(StrEnum):
    """An enumeration whose YAML spelling is its name."""


class Selection(Choice):
    random = "random"
    first = "first"


class Overlong(Choice):
    drop = "drop"
    truncate = "truncate"


class Precision(Choice):
    bf16 = "bf16"
    fp32 = "fp32"


class Normaliser(Choice):
    natural = "natural"
    answer_tokens = "answer_tokens"
    kept_tokens = "kept_tokens"
    weights = "weights"


class Reduction(Choice):
    batch = "batch"
    micro_batch = "micro_batch"


class NonFinite(Choice):
    stop = "stop"
    skip = "skip"


class Recompute(Choice):
    none = "none"
    selective = "selective"
    full = "full"


class Sharding(Choice):
    full = "full"
    hybrid = "hybrid"


class Decay(Choice):
    matrices = "matrices"
    all = "all"


class Shape(Choice):
    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    wsd = "wsd"


class VerdictName(Choice):
    official = "official"
    corrected = "corrected"


class Engine(Choice):
    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"


class Device(Choice):
    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class TrackerName(Choice):
    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"


class TrackerMode(Choice):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class Stage(Choice):
    all = "all"
    train = "train"
    score = "score"


class Gold(Choice):
    column = "column"
    boxed = "boxed"
    hashes = "hashes"
    any = "any"


class End(Choice):
    rare = "rare"
    sure = "sure"


@dataclass
class ModelConfig:
    path: str = MISSING  # hub id, folder of a checkpoint, or `embedded`
    revision: str | None = None  # commit or tag on the hub; pin it for a study
    trust_remote_code: bool = False  # run the code that the hub has beside the weights
    train_prompt: str = "chat"  # `chat` = the tokenizer's chat template, else a text with {problem}
    eval_prompt: str = "chat"  # likewise, of the evaluation
    stop: list[str] = field(default_factory=list)  # texts that end an answer, besides the tokenizer's EOS
    architecture: dict[str, Any] = field(default_factory=dict)  # the hub's config.json, so that `plan` loads nothing
    learning_rate: float = 5e-5  # of the paper's recipe for this model; `optimizer.lr` reads it
    # `embedded` only: how the tiny model is made. It is part of the model's identity.
    pretrain_rows: int = 0  # of the corpus
    pretrain_batch: int = 64
    pretrain_learning_rate: float = 1e-3
    pretrain_seed: int = 0  # of corpus and order


@dataclass
class DatasetConfig:
    path: str = MISSING  # hub id, .jsonl/.json/.parquet file (or glob), or `embedded`
    revision: str | None = None  # commit or tag on the hub
    split: str = "train"  # on the hub; of a file there is one
    prompt_column: str = "problem"  # the question; of a chat the user's last message
    answer_column: str = "solution"  # what is learned; of a chat the assistant's last message, of a list the first text
    rejected_column: str | None = None  # for pairs: `answer_column` is then the chosen answer
    reward_column: str | None = None  # for answers that are right or wrong: 1 or 0
    success_rate_column: str = "success_rate"  # read beside the reward: the share of right answers to the question
    gold_column: str | None = None  # of `losslab sample`: the true answer; null = the box of `answer_column`
    source: str | None = None  # of self_*.yaml: the data set whose questions the model answered
    rows: int | None = None  # how many rows to take; null = all
    selection: Selection = Selection.random  # which rows, where there are more
    seed: int = 0  # of the selection (and of the embedded rows); the order of training has the cell's seed
    max_broken: float = 0.01  # share of rows without usable text above which the run stops


@dataclass
class AdapterConfig:
    """Low-rank adapters (LoRA) in place of training all weights; merged at export."""

    rank: int = 0  # 0 = all weights are trained
    alpha: int = 16  # their product is scaled by alpha / rank
    target_modules: list[str] = field(default_factory=list)  # names of linear layers


@dataclass
class OptimizerConfig:
    _target_: str = MISSING  # a torch.optim.Optimizer
    lr: float = MISSING  # peak learning rate
    weight_decay: float = 0.0
    decay: Decay = Decay.matrices  # `all` also decays biases and norm gains
    arguments: dict[str, Any] = field(default_factory=dict)  # others of the class, such as betas


@dataclass
class SchedulerConfig:
    shape: Shape = Shape.cosine  # after the warm-up
    warmup_ratio: float = 0.1  # share of the steps, linear
    warmup_steps: int | None = None  # takes the place of the ratio
    warmup_at_zero: bool = False  # the first update has a rate of 0, as the schedule moves after it
    decay_ratio: float = 0.2  # wsd: share of the steps at the end that decay
    floor: float = 0.0  # final learning rate as a share of the peak


@dataclass
class TrainConfig:
    epochs: int = 1  # passes over the rows
    max_steps: int | None = None  # ends earlier; the schedule ends there too
    batch_size: int = 256  # rows in one optimizer step, over all workers
    updates: int = 1  # optimizer steps on each batch; more than one only for an objective with an old policy (psft)
    max_length: int = 2048  # tokens of prompt + answer
    overlong: Overlong = Overlong.drop  # rows beyond max_length: left out, or cut on the right
    drop_last: bool = False  # leave out a last batch that is not full
    clip: float = 1.0  # of the global gradient norm
    precision: Precision = Precision.bf16  # of the computation; reductions are fp32
    weights: Precision = Precision.fp32  # of the master weights, and so of the optimizer's state
    normaliser: Normaliser = Normaliser.natural  # what the summed loss is divided by (docs/objectives.md)
    reduction: Reduction = Reduction.batch  # one mean over the global batch | the sum of the micro-batches' token means
    micro_batch: int | None = None  # rows of a micro-batch; null = by tokens, which changes nothing but memory
    non_finite: NonFinite = NonFinite.stop  # on a gradient that is not finite: stop, or skip this update


@dataclass
class EvalConfig:
    samples: int = 16  # answers to each problem
    temperature: float = 1.0  # 0 is greedy decoding
    top_p: float = 1.0
    max_new_tokens: int = 4096  # an answer is cut there
    verdict: VerdictName = VerdictName.official  # which one makes the table (docs/evaluation.md)
    seed: int | None = None  # of sampling; null = that of the cell
    request_seeds: bool = True  # one seed for each sample; false = one for the engine
    full_samples: int | None = None  # of the published protocol; fewer samples give a warning
    data: str | None = None  # folder with <benchmark>.jsonl files in place of the hub


@dataclass
class BenchmarkConfig:
    path: str = MISSING  # hub id, .jsonl/.parquet file, or `embedded`
    revision: str | None = None  # commit or tag on the hub
    subset: str | None = None  # the hub's configuration name
    split: str = "test"
    question: str = "problem"  # columns
    answer: str = "answer"
    gold: Gold = Gold.column  # the answer column as it is | its last \boxed{} | what follows #### | any of its texts
    rows: int | None = None  # the number of problems that the benchmark must have


@dataclass
class TrackerConfig:
    """Where a run is shown; all but the name is for W&B."""

    name: TrackerName = TrackerName.wandb
    mode: TrackerMode = TrackerMode.auto  # auto = online with a login, offline without
    project: str = "losslab"  # of W&B
    entity: str | None = None  # user or team; null = the login's own
    checkpoints: bool = False  # keep the trained model of each cell as an artifact too


@dataclass
class MachineConfig:
    """Where and how a cell runs. Nothing here changes its identity."""

    results: str = "results"  # the folder of all records; on a cluster one that all nodes share
    device: Device = Device.auto  # auto = GPUs where there are any
    workers: int | None = None  # processes on this machine; null = one per GPU, 1 on CPU
    threads: int | None = None  # CPU threads per worker; null = cores / workers
    micro_batch_tokens: int = 4096  # tokens that one worker takes at once
    recompute: Recompute = Recompute.none  # activation checkpointing: what backward computes again to save memory
    compile: bool = False  # torch.compile of every decoder layer
    sharding: Sharding = Sharding.full  # hybrid = weights are sharded within a node and copied between nodes
    cpu_offload: bool = False  # weights, gradients and optimizer state live in host memory
    checkpoint_steps: int = 50  # steps between two checkpoints
    keep_last: int = 2  # how many checkpoints stay while a run goes on; 2, since one may be damaged
    keep_every: int | None = None  # steps whose multiples' checkpoints stay for good
    export_steps: int | None = None  # every so many steps the model is exported to <cell>/steps too
    probabilities: int | None = None  # training examples on which the base and the trained model are compared
    engine: Engine = Engine.auto  # auto = vLLM where it is installed
    tensor_parallel: int = 1  # GPUs that share one vLLM engine, for a model that one cannot hold
    grading_seconds: float = 3.0  # limit for one answer


@dataclass
class DirectionConfig:
    """What a sweep is expected to show of two of its rows, each named by keys that its cells have (results.claims).

    A key is one of the configuration, such as `optimizer.lr`, or `loss`, `dataset`, `method`.
    """

    claim: str = MISSING
    higher: dict[str, Any] = field(default_factory=dict)
    lower: dict[str, Any] = field(default_factory=dict)
    step: int | None = None  # after so many steps, of which there are exports, in place of at the end
    grows: End | None = None  # in place of `lower`: the end of the histogram of target probabilities that grows


@dataclass
class SweepConfig:
    name: str = "ablation"  # tables of this sweep go to results/tables/<name>
    question: str = ""  # above its table
    next: str = ""  # a command to try after this sweep
    # Of a sweep that a file of experiments/ declares: how its records become the artefact (docs/experiments.md).
    paper: str | None = None  # the table of experiments/paper.csv that its figures are compared with
    against: list[str] = field(default_factory=list)  # keys with a panel each: the score against the key's values
    gpu_hours: float | None = None  # of an H100, for the whole grid; an upper bound, as plan=true computes it
    needs: str | None = None  # what losslab lacks for it: it is declared, and cannot be run
    directions: list[DirectionConfig] = field(default_factory=list)


@dataclass
class Names:
    """The chosen file of each group, for folders and tables."""

    model: str = MISSING
    dataset: str = MISSING
    loss: str = MISSING
    eval: str = MISSING
    method: str | None = None  # what a table calls a row that is more than an objective; no part of the identity


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    loss: dict[str, Any] = field(default_factory=dict)  # `_target_` and the objective's parameters
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    benchmark: dict[str, BenchmarkConfig] = field(default_factory=dict)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    names: Names = field(default_factory=Names)
    seed: int = 0  # of the order of rows, and of sampling
    stage: Stage = Stage.all  # `train` or `score`: one half of the cell, for two jobs
    plan: bool = False  # print what would run and what it needs, and stop
    force: bool = False  # run finished cells again

    @property
    def objective(self) -> "Objective | Online | Base":
        """What `loss` names. Raises ValueError, as `losslab.config.objective.resolve` does."""
        from losslab.config.objective import resolve

        return resolve(self.names.loss, self.loss)

    @property
    def trains(self) -> bool:
        """Whether there is something to train: the base model is scored as it is."""
        from losslab.objectives.base import Base

        return not isinstance(self.objective, Base)
