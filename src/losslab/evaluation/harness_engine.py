"""Runs tasks of lm-evaluation-harness on a transformers model, in the process of an engine."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from losslab.evaluation import harness
from losslab.evaluation.engine_interface import Job
from losslab.evaluation.harness import TaskRequest
from losslab.evaluation.scores import UNKNOWN
from losslab.evaluation.transformers_engine import load_model

BATCH = 16  # sequences that the library runs at once

Sample = dict[str, Any]


def run(job: Job, requests: list[TaskRequest], on_gpu: bool) -> Iterator[list[tuple[str, int, Sample]]]:
    """Yields an empty list when the model is loaded, then the samples of each task: benchmark, problem, sample.

    Raises:
        RuntimeError: a task's score is not a mean of right and wrong answers.
    """
    from lm_eval import evaluator
    from lm_eval.api.model import CachingLM
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_model(job, on_gpu)
    yield []
    for request in requests:
        arguments = dict(request.template_arguments)
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, chat_template_args=arguments)
        loaded = harness.tasks(request.name, request.task)
        results = evaluator.evaluate(
            CachingLM(lm, str(request.cache)),
            {"tasks": loaded},
            bootstrap_iters=0,
            apply_chat_template=request.chat,
            fewshot_as_multiturn=request.chat,
        )
        first, rows = 0, []
        for name, task in loaded.items():
            metric = harness.metric_of(request.name, task, request.metric)
            logged = _of_first_filter(results["samples"][name])
            values = [_verdict(name, metric, row[metric]) for row in logged]
            total = results["results"][name][f"{metric},{logged[0]['filter']}"]
            if abs(sum(values) / len(values) - total) > 1e-9:
                raise RuntimeError(f"the score {metric} of {name} is not a mean over problems: set another metric")
            picks = task.OUTPUT_TYPE == "multiple_choice"
            choices = [task.doc_to_choice(row["doc"]) if picks else None for row in logged]
            rows += [
                (request.name, first + row["doc_id"], _sample(row, value, tokenizer, _picked(row, metric, of_row)))
                for row, value, of_row in zip(logged, values, choices, strict=True)
            ]
            first += len(logged)
        yield rows


def _of_first_filter(logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per document: a task may read each answer through several filters."""
    return [row for row in logged if row["filter"] == logged[0]["filter"]]


def _verdict(task: str, metric: str, value: Any) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise RuntimeError(
            f"{metric} of {task} is {value!r} for a problem, neither right nor wrong: set another metric"
        )
    return bool(value)


def _picked(row: dict[str, Any], metric: str, choices: Sequence[str] | None) -> str | None:
    """The choice that a metric of the library judges, by its definition; None where there are no choices.

    That is the one of the highest log-probability: by character for acc_norm, by byte for acc_bytes, and less that
    without the question for acc_mutual_info, which the library asks for behind the others. As in the library, an empty
    choice is divided by 0, the first of equal values is picked, and a value that is not a number before all others.
    """
    if choices is None:
        return None
    chances = np.array([response[0][0] for response in row["resps"]])
    values, alone = chances[: len(choices)], chances[len(choices) :]
    if metric == "acc_mutual_info":
        values = values - alone
    elif metric in ("acc_norm", "acc_bytes"):
        lengths = [len(choice if metric == "acc_norm" else choice.encode()) for choice in choices]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = values / np.array(lengths, dtype=float)
    return choices[int(np.argmax(values))]


def _sample(row: dict[str, Any], right: bool, tokenizer: Any, picked: str | None) -> Sample:
    """A sample for the record. The text of a multiple choice lists each continuation with its log-probability."""
    contexts, answers = zip(*(arguments[:2] for arguments in row["arguments"]), strict=True)
    first = row["resps"][0][0]
    if isinstance(first, str):
        text, extracted, tokens = first, row["filtered_resps"][0], len(tokenizer(first)["input_ids"])
    else:
        chances = [response[0][0] for response in row["resps"]]
        text = "\n".join(f"{chance:.3f} {answer}" for chance, answer in zip(chances, answers, strict=True))
        extracted, tokens = answers[0] if picked is None else picked, 0
    return {
        "text": text,
        "finish_reason": UNKNOWN,
        "tokens": tokens,
        "seed": None,
        "prompt": contexts[0],
        "extracted": str(extracted).strip(),
        "official": right,
        "corrected": right,
        "timed_out": False,
    }
