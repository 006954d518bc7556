"""Tasks of lm-evaluation-harness as benchmarks: `path: lm_eval:TASK`.

The library asks, reads and judges; the problems, records, intervals and tables are those of every other benchmark.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from losslab.config.messages import did_you_mean, first_line
from losslab.config.schema import BenchmarkConfig
from losslab.evaluation.benchmarks import Benchmark, Problem

FEWSHOT_SEED = 1234  # the library's own default


@dataclass(frozen=True)
class TaskRequest:
    """A task that is to be run, as an engine's process is told of it."""

    name: str  # of the benchmark
    task: str  # of the library: a task, a group, or a YAML file
    metric: str | None
    chat: bool  # the model's chat template is put around the prompts
    cache: Path  # answers are kept there while the task runs


def load(name: str, cfg: BenchmarkConfig) -> Benchmark:
    """The problems of a task, or of all tasks of a group, which the scores are then broken down by.

    Raises:
        ValueError: the library is not installed, or the task is not there, cannot be read, has no right answers, or
            runs what a model writes.
    """
    assert cfg.task is not None
    loaded = tasks(name, cfg.task)
    problems: list[Problem] = []
    for task_name, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ValueError(f"benchmark {name}: the task {task_name} runs what a model writes, and losslab does not")
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise ValueError(f"benchmark {name}: the task {task_name} has no right answers, it measures perplexity")
        if getattr(task, "MULTIMODAL", False):
            raise ValueError(f"benchmark {name}: the task {task_name} shows more than text")
        metric_of(name, task, cfg.metric)
        groups = {"task": task_name} if len(loaded) > 1 else {}
        for question, gold in _documents(task):
            problems.append(Problem(len(problems), question, gold, gold, groups))
    if not problems:
        raise ValueError(f"benchmark {name} is empty")
    if cfg.rows is not None and len(problems) != cfg.rows:
        raise ValueError(f"benchmark {name} has {len(problems)} problems in place of {cfg.rows}; this is another set")
    settings = [[key, task.config.num_fewshot, task.VERSION, cfg.metric] for key, task in loaded.items()]
    content = json.dumps([settings, [[p.question, p.gold] for p in problems]])
    return Benchmark(name, problems, hashlib.sha256(content.encode()).hexdigest(), task=cfg.task)


def tasks(name: str, task: str) -> dict[str, Any]:
    """The library's own objects of a task or group, by name. Raises ValueError."""
    if not importlib.util.find_spec("lm_eval"):
        raise ValueError(f"benchmark {name} needs the package lm-eval: pip install lm-eval")
    file = Path(task).resolve() if Path(task).is_file() else None
    manager = _manager(file and file.parent)
    if file:  # the index has it by the name that stands in it
        entries = manager.task_index.items()
        task = next((name for name, entry in entries if Path(entry.yaml_path or "").resolve() == file), task)
    if task not in manager.all_tasks:
        raise ValueError(f"benchmark {name}: lm_eval has no task {task}{did_you_mean(task, manager.all_tasks)}")
    try:
        loaded = manager.load([task])["tasks"]
    except Exception as error:  # of the library, of the data set's, of the network
        raise ValueError(f"benchmark {name}: the task {task} cannot be read ({first_line(error)})") from None
    for each_task in loaded.values():
        each_task.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


@cache
def _manager(folder: Path | None) -> Any:
    """The index of the library's tasks, which takes a while to read, or of those in a folder alone."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=folder is None)


def metric_of(name: str, task: Any, metric: str | None) -> str:
    """The metric that makes the score. Raises ValueError where the task has no such."""
    names = list(task.aggregation())
    if metric is None:
        return names[0]
    if metric not in names:
        raise ValueError(f"benchmark.{name}.metric={metric} is none of {task.task_name}: there are {', '.join(names)}")
    return metric


def _documents(task: Any) -> Iterator[tuple[str, str]]:
    """Question and gold of each document, as texts."""
    for document in task.eval_docs:
        question, target = task.doc_to_text(document), task.doc_to_target(document)
        if not isinstance(question, str):  # some tasks ask by the choices alone
            question = json.dumps(document, ensure_ascii=False, default=str)
        if isinstance(target, int) and task.OUTPUT_TYPE == "multiple_choice":
            target = task.doc_to_choice(document)[target]
        yield question, target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, default=str)
