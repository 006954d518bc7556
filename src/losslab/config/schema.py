"""The typed schema behind `conf/`: every key with its type, default, bounds and meaning.

Hydra composes YAML; `losslab.composition.compose` merges the result into `Config`, so an unknown key or a wrong type is
refused before anything is loaded. This module imports nothing heavy.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import (
    AnswerEnd,
    Corpus,
    Decay,
    Engine,
    NonFinite,
    Normaliser,
    Overlong,
    Precision,
    Reduction,
    SampleRules,
    Selection,
    Shape,
    Stage,
    Turns,
    VerdictName,
)
from losslab.config.machine import MachineConfig, TrackerConfig
from losslab.config.prompt import CHANGED_PROMPT, MODEL_PROMPT, PromptConfig
from losslab.config.sweep import SweepConfig
from losslab.keys import key, seed_key

if TYPE_CHECKING:
    from losslab.objectives import Objective
    from losslab.objectives.base import Base
    from losslab.objectives.online import OnPolicy

BASE = "base"  # the name of the loss in the records of cells that are scored without training
EMBEDDED = "embedded"  # the path of a model, data set or benchmark that is made on the spot (losslab.data.toy_task)
EMBEDDED_LARGE = "embedded_large"  # likewise of a larger model, which can teach the other one
EMBEDDED_VISION = "embedded_vision"  # likewise of one that reads images (losslab.data.toy_pictures)
EMBEDDED_MODELS = (EMBEDDED, EMBEDDED_LARGE, EMBEDDED_VISION)


@dataclass
class ModelConfig:
    path: str = key(MISSING, "hub id, folder of a checkpoint, or `embedded`")
    revision: str | None = key(None, "commit or tag on the hub; pin it, so that all cells have the same weights")
    trust_remote_code: bool = key(False, "run the code that the hub has beside the weights")
    train_prompt: str = key("chat", "`chat` = the tokenizer's chat template, else a text with {problem}")
    eval_prompt: str = key("chat", "the same for the evaluation")
    template_arguments: dict[str, Any] = key(
        dict, "of the chat template, as in '+model.template_arguments={enable_thinking: false}'"
    )
    image_arguments: dict[str, Any] = key(dict, "of the processor of images, as in {max_pixels: 589824}")
    stop: list[str] = key(list, "texts that end an answer, besides the tokenizer's EOS")
    architecture: dict[str, Any] = key(dict, "the hub's config.json, so that `plan` loads nothing")
    learning_rate: float = key(5e-5, "of the paper's recipe for this model; `optimizer.lr` reads it", low=0, high=1000)
    pretrain_rows: int = key(
        0,
        "rows of the corpus",
        low=0,
        heading="How model=tiny, tiny_coder, tiny_large and tiny_vision are made, which is part of their identity:",
    )
    pretrain_split: Corpus = key(
        Corpus.corpus, "of the embedded data set: sums, programs of a stack language, or pictures of sums"
    )
    pretrain_batch: int = key(64, "rows in a step", low=1)
    pretrain_learning_rate: float = key(1e-3, "peak learning rate", low=0, high=1000)
    pretrain_seed: int | None = seed_key(
        0, "of the corpus and the order of its rows; null = that of the cell, so that each seed has its own base"
    )


@dataclass
class DatasetConfig:
    path: str = key(MISSING, "hub id, file or pattern of files, folder of save_to_disk (docs/data.md), or `embedded`")
    revision: str | None = key(None, "commit or tag on the hub")
    subset: str | None = key(None, "the hub's configuration name")
    split: str = key("train", "the split on the hub; a file has only one")
    messages_column: str | None = key(None, "whole conversations; null = recognised by their shape")
    prompt_column: str = key("problem", "the question, or the messages before the answer")
    answer_column: str = key("solution", "what is learned: a text, the first of a list of texts, or messages")
    prompt: str | None = key(None, 'in place of `prompt_column`, a text with columns in it: "{instruction}\\n{input}"')
    answer: str | None = key(None, "likewise, in place of `answer_column`")
    turns: Turns = key(Turns.all, "of a conversation: all of the assistant's, the last, or each in its own example")
    answer_end: AnswerEnd = key(AnswerEnd.eos, "of answers that are texts: EOS, or the chat template's end of a turn")
    rejected_column: str | None = key(None, "for pairs: `answer_column` is then the chosen answer")
    reward_column: str | None = key(None, "for answers that are right or wrong: 1 or 0")
    success_rate_column: str = key(
        "success_rate", "with reward_column: the share of right answers to the question; if missing, that of its rows"
    )
    weights_column: str | None = key(None, "of loss=token_weights: a list with a number for each trained token")
    images_column: str | None = key(
        None, "column with the image or images of a row; null = `images` or `image`, if it holds images"
    )
    image_folder: str | None = key(None, "what paths of images are relative to; null = the folder of the data's file")
    gold_column: str | None = key(None, "of `losslab sample`: the true answer; null = the box of `answer_column`")
    rules: SampleRules = key(SampleRules.general, "how sampled answers are verified; code, stack_program = by tests")
    stop: list[str] = key(list, "with rules=code: texts at which an answer is cut, as of a benchmark")
    template: str | None = key(None, "in place of model.train_prompt: `chat`, or a text with {problem}")
    source: str | None = key(None, "of self_*.yaml: the data set whose questions the model answered")
    rows: int | None = key(None, "how many rows to take; null = all", low=1)
    selection: Selection = key(Selection.random, "which rows, where there are more")
    keep: dict[str, str] = key(
        dict, "only rows in whose column a regular expression finds something: '+dataset.keep={column: pattern}'"
    )
    validation: float | int | str | None = key(
        None,
        "rows that are held out: a share of the rows, or another file or data set; null = none",
        low=1e-4,
        high=0.9,
    )
    seed: int | None = seed_key(
        0, "of the selection (and of the embedded rows); null = the cell's; the order of rows is always by the cell's"
    )
    max_broken: float = key(0.01, "share of rows without usable text above which the run stops", low=0, high=1)


@dataclass
class ReferenceConfig:
    """The model that objectives with a reference, or a teacher, compare the policy with; it is not trained."""

    path: str | None = key(None, "hub id or folder of a checkpoint with the same vocabulary; null = the base model")
    revision: str | None = key(None, "commit or tag on the hub")


@dataclass
class AdapterConfig:
    """Low-rank adapters (LoRA) in place of training all weights; merged at export."""

    rank: int = key(0, "0 = all weights are trained", low=0)
    alpha: int = key(16, "their product is scaled by alpha / rank", low=1)
    target_modules: list[str] = key(
        list, "names of linear layers, fused experts too; [all-linear] = all of the decoder"
    )
    modules_to_save: list[str] = key(list, "names of modules that are trained whole beside them, such as embed_tokens")


@dataclass
class OptimizerConfig:
    _target_: str = key(MISSING, "the class, a torch.optim.Optimizer")
    lr: float = key(MISSING, "peak learning rate", low=0, high=1000)
    weight_decay: float = key(
        0.0, "each step subtracts this share of a weight, times the learning rate", low=0, high=1000
    )
    decay: Decay = key(Decay.matrices, "`all` also decays biases and norm gains")
    arguments: dict[str, Any] = key(dict, "other arguments of the class, such as betas")


@dataclass
class SchedulerConfig:
    shape: Shape = key(Shape.cosine, "of the learning rate after the warm-up")
    warmup_ratio: float = key(0.1, "share of the steps, linear", low=0, high=1)
    warmup_steps: int | None = key(None, "takes the place of the ratio", low=0)
    warmup_at_zero: bool = key(False, "true = the warm-up starts at 0, so that the first update changes nothing")
    decay_ratio: float = key(0.2, "wsd: share of the steps at the end that decay", low=0, high=1)
    floor: float = key(0.0, "final learning rate as a share of the peak", low=0, high=1)


@dataclass
class TrainConfig:
    epochs: int = key(1, "passes over the rows", low=1, high=10_000)
    max_steps: int | None = key(None, "ends earlier; the schedule ends there too", low=1)
    batch_size: int = key(256, "rows in one optimizer step, over all workers", low=1)
    updates: int = key(
        1,
        "optimizer steps on each batch; more than one only for an objective with an old policy (psft)",
        low=1,
        high=1000,
    )
    max_length: int = key(2048, "tokens of prompt + answer", low=2)
    overlong: Overlong = key(Overlong.drop, "rows beyond max_length: left out, or cut on the right")
    drop_last: bool = key(False, "leave out a last batch that is not full")
    clip: float = key(1.0, "largest global norm of the gradient; a larger one is scaled down to it", low=1e-9, high=1e9)
    precision: Precision = key(Precision.bf16, "of the computation; reductions are fp32")
    weights: Precision = key(Precision.fp32, "of the master weights, and so of the optimizer's state")
    normaliser: Normaliser = key(Normaliser.natural, "what the summed loss is divided by (docs/objectives.md)")
    freeze_vision: bool = key(True, "of a model that reads images: its vision tower and projector stay as they are")
    reduction: Reduction = key(
        Reduction.batch, "one mean over the global batch | the sum of the micro-batches' token means"
    )
    micro_batch: int | None = key(
        None, "rows of a micro-batch; null = by tokens; with reduction=batch it changes memory and rounding only", low=1
    )
    non_finite: NonFinite = key(NonFinite.stop, "on a gradient that is not finite: stop, or skip this update")


@dataclass
class EvalConfig:
    samples: int = key(16, "answers to each problem", low=1)
    temperature: float = key(1.0, "0 is greedy decoding", low=0, high=100)
    top_p: float = key(1.0, "share of the probability from which tokens are drawn", low=1e-6, high=1)
    max_new_tokens: int = key(4096, "an answer is cut there", low=1)
    verdict: VerdictName = key(VerdictName.official, "whose scores the tables show (docs/evaluation.md)")
    seed: int | None = seed_key(None, "of sampling; null = that of the cell")
    request_seeds: bool = key(True, "one seed for each sample; false = one for the engine, none for an endpoint")
    full_samples: int | None = key(None, "samples of the published protocol; fewer give a warning", low=1)
    data: str | None = key(None, "folder with <benchmark>.jsonl(.gz) files in place of the hub")


@dataclass
class Names:
    """The chosen file of each group, for folders and tables."""

    model: str = key(MISSING, "")
    dataset: str = key(MISSING, "")
    loss: str = key(MISSING, "")
    eval: str = key(MISSING, "")
    prompt: str | None = key(None, "")
    method: str | None = key(None, "what a table calls a row that is more than an objective; no part of the identity")
    sampled: str = key("", "")  # begins the name of the folder of the model's own answers


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    loss: dict[str, Any] = key(dict, "`_target_` and the objective's parameters")
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    benchmark: dict[str, BenchmarkConfig] = key(dict, "")
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    names: Names = field(default_factory=Names)
    seed: int = seed_key(0, "of the order of rows, and of sampling")
    stage: Stage = key(Stage.all, "`train` or `score`: one half of the cell, for two jobs")
    plan: bool = key(False, "print what would run and what it needs, and stop")
    check: bool = key(False, "with `plan`: load each model and compare its forward in training with its own forward")
    force: bool = key(False, "run finished cells again")

    @property
    def objective(self) -> "Objective | OnPolicy | Base":
        """What `loss` names. Raises ValueError, as `losslab.config.objective.resolve` does."""
        from losslab.config.objective import resolve

        return resolve(self.names.loss, self.loss)

    @property
    def reference_model(self) -> ModelConfig:
        """What an objective with a reference compares with: `reference.path`, else the model before training."""
        if self.reference.path is None:
            return self.model
        return replace(self.model, path=self.reference.path, revision=self.reference.revision, architecture={})

    @property
    def seeded(self) -> "Config":
        """With the cell's seed in the place of each seed of data and model that is null."""
        dataset, model = self.dataset, self.model
        if dataset.seed is None:
            dataset = replace(dataset, seed=self.seed)
        if model.pretrain_seed is None:
            model = replace(model, pretrain_seed=self.seed)
        return replace(self, dataset=dataset, model=model)

    @property
    def train_prompt(self) -> str:
        """The prompt of training: `chat`, or a text with {problem}."""
        return self.dataset.template or self.model.train_prompt

    @property
    def scoring_template(self) -> str:
        """The prompt of the evaluation, where a benchmark has none of its own: `chat`, or a text with {problem}."""
        return self.prompt.template or self.model.eval_prompt

    @property
    def prompt_name(self) -> str:
        """What tables call the prompt of the evaluation: its file, `model` for the model's own, else `changed`."""
        return self.names.prompt or (MODEL_PROMPT if self.prompt == PromptConfig() else CHANGED_PROMPT)

    @property
    def served(self) -> bool:
        """Whether the model is behind an endpoint: its weights and tokenizer may be nowhere here."""
        return self.machine.engine == Engine.api

    @property
    def trains(self) -> bool:
        """Whether there is something to train: the base model is scored as it is."""
        from losslab.objectives.base import Base

        return not isinstance(self.objective, Base)
