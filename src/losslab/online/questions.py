"""The questions of online training: prompts, each with its true answer, made once and kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

from losslab.config.schema import Config
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import VERSION
from losslab.data.prompts import encode, render
from losslab.data.rows import solutions
from losslab.data.tokenizer_key import tokenizer_key
from losslab.evaluation import questions
from losslab.files.content import content
from losslab.files.json_files import read_json, write_json
from losslab.files.locks import cached
from losslab.objectives.online import OPSD, OnPolicy


def prepare(config: Config, tokenizer: Any, cache: Path) -> tuple[Path, dict[str, int], int]:
    """Read the questions of a data set once and keep them; returns their folder, a report of what was left out, and
    the number of steps.

    A prompt that leaves no room for the longest answer is left out, that of a teacher who reads the solution too, and
    so is a question without a true answer: see `losslab.evaluation.questions`. Raises ValueError where no question is
    left, and where answers are code that this machine cannot run.
    """
    from datasets import Dataset, load_from_disk

    dataset, template = config.dataset, config.train_prompt
    objective = config.objective
    assert isinstance(objective, OnPolicy)
    room = config.train.max_length - objective.answer_tokens(config.train.max_length)
    about = [
        {key: str(value) for key, value in vars(dataset).items()} | {"path": content(dataset.path)},
        [*tokenizer_key(tokenizer), template, config.model.template_arguments, room, VERSION],
        *([objective.teacher_prompt] if isinstance(objective, OPSD) else []),
    ]

    def make(folder: Path) -> None:
        rows, report = ask(config, room, tokenizer)
        Dataset.from_list(rows).save_to_disk(folder)
        write_json(folder / "report.json", report)

    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = cached(cache / "questions" / key, make)
    questions.check_verifier(dataset, list(load_from_disk(folder)["gold"]), config.machine.unsafe_code)
    kept = read_json(folder / "report.json")
    return folder, kept, RandomBatchSampler.of_questions(config.train, config.seed, kept["prompts"]).steps


def ask(config: Config, room: int, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows {prompt, gold} of a data set, and how many there are and why others are not.

    A teacher who reads the solution has a separate prompt, {informed}.
    """
    asked, report = questions.questions(config.dataset)
    problems, objective, columns = asked.problems, config.objective, dict[str, list[str | None]]()
    if isinstance(objective, OPSD):
        texts = solutions(config.dataset)
        problems = [problem for problem in problems if problem.question in texts]
        report |= {"without_solution": len(asked.problems) - len(problems)}
        informed = [objective.informed(problem.question, texts[problem.question]) for problem in problems]
        columns["informed"] = _prompts(config, informed, room, tokenizer)
    columns["prompt"] = _prompts(config, [problem.question for problem in problems], room, tokenizer)
    columns["gold"] = [problem.gold for problem in problems]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True) if None not in row]
    if not rows:
        raise ValueError(
            f"every prompt of {config.dataset.path} has more than the {room} tokens that loss.max_new_tokens leaves of "
            "train.max_length: raise train.max_length"
        )
    return rows, report | {"overlong_dropped": len(problems) - len(rows), "prompts": len(rows)}


def _prompts(config: Config, asked: list[str], room: int, tokenizer: Any) -> list[str | None]:
    """Prompts as TRL is to tokenise them, None for one of more than `room` tokens."""
    prompts = [render(config.train_prompt, text, tokenizer, config.model.template_arguments) for text in asked]
    tokens = encode(prompts, tokenizer)
    if not prompts:
        return []
    given = tokenizer(prompts[0])["input_ids"]
    if given[: len(tokens[0]) + 1] == [tokenizer.bos_token_id, *tokens[0]]:  # it adds a BOS that the prompt spells out
        prompts = [prompt.removeprefix(tokenizer.bos_token) for prompt in prompts]
    for ids, expected in zip(tokenizer(prompts)["input_ids"], tokens, strict=True):
        if ids != expected:
            raise ValueError(_difference(ids, expected, tokenizer))
    return [prompt if len(ids) <= room else None for prompt, ids in zip(prompts, tokens, strict=True)]


def _difference(ids: list[int], expected: list[int], tokenizer: Any) -> str:
    """How the tokens of a prompt as TRL makes them differ from those of scoring, and what to change."""
    if ids[: len(expected)] == expected:
        return (
            f"the tokenizer puts {tokenizer.decode(ids[len(expected) :])!r} behind each prompt that TRL gives it, and "
            "nothing is left to answer: set add_eos_token to false in its tokenizer_config.json, or take it out of the "
            "post-processor of its tokenizer.json"
        )
    return (
        f"TRL gives the model the prompt {tokenizer.decode(ids)!r}, and scoring {tokenizer.decode(expected)!r}: write "
        "no BOS into model.train_prompt or the chat template"
    )
