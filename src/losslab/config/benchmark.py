"""The schema of a benchmark: a file of `conf/benchmark`."""

from dataclasses import dataclass

from omegaconf import MISSING

from losslab.config.choices import Gold, Rules
from losslab.config.prompt import ExampleConfig
from losslab.keys import key

HARNESS = "lm_eval:"  # begins the path of a benchmark that is a task of lm-evaluation-harness
WITH_OPTIONS = (Rules.mathverse, Rules.mathvision, Rules.wemath)  # rules that know the options of a question


@dataclass
class BenchmarkConfig:
    path: str = key(MISSING, "hub id, .jsonl(.gz) or .parquet file, `embedded`, or lm_eval:TASK (docs/evaluation.md)")
    revision: str | None = key(None, "commit or tag on the hub")
    subset: str | None = key(None, "the hub's configuration name")
    split: str = key("test", "on the hub")
    question: str = key("problem", "column of the question")
    images: list[str] = key(list, "columns of its images; they come before the question unless its text has <image>")
    options: str | None = key(
        None,
        "column of the options, a list or a text with A. and so on: the text of the right one is a right answer too",
    )
    instruction: str | None = key(None, "the question as it is asked: a text with {problem} and columns of the row")
    answer: str = key("answer", "column of the right answer")
    gold: Gold = key(
        Gold.column, "the answer column as it is | its last \\boxed{} | what follows #### | any of its texts"
    )
    rows: int | None = key(None, "the number of problems that the benchmark must have", low=1)
    versions_of: str | None = key(
        None, "name of the set of which each row is a version, as HumanEval in another language (docs/evaluation.md)"
    )
    original: str | None = key(
        None, "column whose first number says of which problem of `versions_of` a row is a version"
    )
    rules: Rules = key(Rules.general, "how answers are read and compared (docs/evaluation.md)")
    prompt: str | None = key(None, "in place of model.eval_prompt: `chat`, or a text with {problem}")
    examples: list[ExampleConfig] = key(list, "worked examples before its questions, in place of those of `prompt`")
    stop: list[str] = key(list, "texts that end an answer to this benchmark, besides model.stop")
    metric: str | None = key(None, "of an lm_eval task: the one that makes the score; null = its first")
    breakdown: list[str] = key(list, "columns, such as subject and level, by whose values the scores are broken down")

    @property
    def problems(self) -> int | None:
        """The problems that the score is a mean over, if known: the 1,740 questions of We-Math are 525 problems."""
        return round(self.rows * 525 / 1740) if self.rows and self.rules == Rules.wemath else self.rows

    @property
    def task(self) -> str | None:
        """The task of lm-evaluation-harness that this benchmark is; None for our own."""
        return self.path.removeprefix(HARNESS) if self.path.startswith(HARNESS) else None
