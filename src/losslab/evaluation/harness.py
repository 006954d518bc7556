"""Tasks of lm-evaluation-harness as benchmarks: `path: lm_eval:TASK`.

The library builds prompts and judges answers; problems, records, intervals and tables are those of every benchmark.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from losslab.config.messages import did_you_mean, first_line
from losslab.config.schema import BenchmarkConfig
from losslab.evaluation.benchmarks import Benchmark, Problem

FEWSHOT_SEED = 1234  # the library's own default
QUESTIONS = ("question", "problem", "query", "prompt", "instruction")  # usual names of a question's column
DISTINCT = 0.9  # of the documents at least, where such a column holds questions
FIELD = re.compile(r"\{\{\s*(.*?)(?:\.strip\(\))?\s*\}\}", re.S)  # of a template, such as {{question}}


@dataclass(frozen=True)
class TaskRequest:
    """A task to run, as it is sent to an engine's process."""

    name: str  # of the benchmark
    task: str  # of the library: a task, a group, or a YAML file
    metric: str | None
    chat: bool  # apply the model's chat template to the prompts
    cache: Path  # keeps answers while the task runs
    template_arguments: Mapping[str, Any] = field(default_factory=dict)  # of that template, as enable_thinking


def load(name: str, cfg: BenchmarkConfig) -> Benchmark:
    """The problems of a task, or of all tasks of a group, by which the scores are then broken down.

    Raises:
        ValueError: the library is not installed, or the task does not exist, cannot be read, has no right answers, or
            runs code that the model writes.
    """
    assert cfg.task is not None
    loaded = tasks(name, cfg.task)
    problems: list[Problem] = []
    for task_name, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ValueError(f"benchmark {name}: the task {task_name} runs code that a model writes: not supported")
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise ValueError(f"benchmark {name}: the task {task_name} measures perplexity and has no right answers")
        if getattr(task, "MULTIMODAL", False):
            raise ValueError(f"benchmark {name}: the task {task_name} has inputs other than text")
        metric_of(name, task, cfg.metric)
        groups = {"task": task_name} if len(loaded) > 1 else {}
        for question, own, gold in _documents(task):
            problems.append(Problem(len(problems), question, gold, gold, groups, own=own))
    if not problems:
        raise ValueError(f"benchmark {name} is empty")
    if cfg.rows is not None and len(problems) != cfg.rows:
        raise ValueError(f"benchmark {name} has {len(problems)} problems, not {cfg.rows}: it is another version")
    settings = [[key, task.config.num_fewshot, task.VERSION, cfg.metric] for key, task in loaded.items()]
    content = json.dumps([settings, [[p.question, p.gold] for p in problems]])
    return Benchmark(name, problems, hashlib.sha256(content.encode()).hexdigest(), task=cfg.task)


def tasks(name: str, task: str) -> dict[str, Any]:
    """The library's task objects of a task or group, by name. Errors are those of `load`."""
    if not importlib.util.find_spec("lm_eval"):
        raise ValueError(f"benchmark {name} needs the package lm-eval: pip install lm-eval")
    file = Path(task).resolve() if Path(task).is_file() else None
    manager = _manager(file and file.parent)
    if file:  # the index lists it under the name in the file
        entries = manager.task_index.items()
        task = next((name for name, entry in entries if Path(entry.yaml_path or "").resolve() == file), task)
    if task not in manager.all_tasks:
        raise ValueError(f"benchmark {name}: lm_eval has no task {task}{did_you_mean(task, manager.all_tasks)}")
    try:
        loaded = manager.load([task])["tasks"]
    except Exception as error:  # of the library, the data set or the network
        raise ValueError(f"benchmark {name}: the task {task} cannot be read ({first_line(error)})") from None
    for each_task in loaded.values():
        each_task.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


@cache
def _manager(folder: Path | None) -> Any:
    """The index of the tasks in a folder, or of the library's tasks, which takes seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=folder is None)


def metric_of(name: str, task: Any, metric: str | None) -> str:
    """The metric used as the score. Raises ValueError if the task does not have it."""
    names = list(task.aggregation())
    if metric is None:
        return names[0]
    if metric not in names:
        raise ValueError(
            f"benchmark.{name}.metric={metric} is not a metric of {task.task_name}: there are {', '.join(names)}"
        )
    return metric


def _documents(task: Any) -> Iterator[tuple[str, str | None, str]]:
    """Prompt, question alone if it is known, and gold of each document, as texts."""
    documents = list(task.eval_docs)
    prompts = [task.doc_to_text(document) for document in documents]
    column = _column(task, documents, prompts)
    for document, question in zip(documents, prompts, strict=True):
        target = task.doc_to_target(document)
        if not isinstance(question, str):  # some tasks have only choices
            question = json.dumps(document, ensure_ascii=False, default=str)
        if isinstance(target, int) and task.OUTPUT_TYPE == "multiple_choice":
            target = task.doc_to_choice(document)[target]
        asked = document.get(column)
        asked = asked if isinstance(asked, str) and asked.strip() else None
        yield (
            question,
            asked,
            target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, default=str),
        )


def _column(task: Any, documents: Sequence[Mapping[str, Any]], prompts: Sequence[Any]) -> str | None:
    """The column that holds a document's question, as far as the task says it.

    That is the one that the library's own search for known problems asks for, or the only one in the prompt. For
    prompts that also show choices or worked examples it is one with a usual name, if each prompt holds its text and few
    documents share one: COPA's `question` is only "cause" or "effect".
    """
    document = documents[0]
    for text in (task.config.doc_to_decontamination_query, task.config.doc_to_text):
        if isinstance(text, str):
            fields = [text] if text in document else FIELD.findall(text)
            if len(fields) == 1 and "{%" not in text and fields[0] in document:
                return str(fields[0])
    if (name := next((name for name in QUESTIONS if name in document), None)) is None:
        return None
    texts = [document[name] for document in documents]
    shown = all(isinstance(text, str) and text in str(prompt) for text, prompt in zip(texts, prompts, strict=True))
    return name if shown and len(set(texts)) > DISTINCT * len(texts) else None
