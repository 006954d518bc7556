"""The questions of online training: prompts, each with its true answer, made once and kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

from losslab.config.schema import Config
from losslab.data.prompts import encode, render
from losslab.data.schedule import Schedule
from losslab.evaluation import questions
from losslab.files import cached, content, read_json, write_json
from losslab.objectives.online import Online


def prepare(config: Config, tokenizer: Any, cache: Path) -> tuple[Path, dict[str, int], int]:
    """Read the questions of a data set once and keep them; returns their folder, a report of what was left out, and
    the number of steps.

    A prompt that leaves no room for the longest answer is left out, and so is a question without a true answer: see
    `losslab.evaluation.questions`. Raises ValueError where no question is left, and where answers are code that this
    machine cannot run.
    """
    from datasets import Dataset, load_from_disk

    dataset, template = config.dataset, config.train_prompt
    assert isinstance(config.objective, Online)
    room = config.train.max_length - config.objective.answer_tokens(config.train.max_length)
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    about = [
        {key: str(value) for key, value in vars(dataset).items()} | {"path": content(dataset.path)},
        [vocabulary, tokenizer.chat_template, template, config.model.template_arguments, room],
    ]

    def make(folder: Path) -> None:
        rows, report = ask(config, room, tokenizer)
        Dataset.from_list(rows).save_to_disk(folder)
        write_json(folder / "report.json", report)

    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = cached(cache / "questions" / key, make)
    questions.check_verifier(dataset, list(load_from_disk(folder)["gold"]), config.machine.unsafe_code)
    kept = read_json(folder / "report.json")
    return folder, kept, Schedule.of_questions(config.train, config.seed, kept["prompts"]).steps


def ask(config: Config, room: int, tokenizer: Any) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Rows {prompt, gold} of a data set, and how many there are and why others are not."""
    template, arguments = config.train_prompt, config.model.template_arguments
    asked, report = questions.questions(config.dataset)
    prompts = [render(template, problem.question, tokenizer, arguments) for problem in asked.problems]
    tokens = encode(prompts, tokenizer)
    if tokenizer(prompts[0])["input_ids"] != tokens[0]:  # TRL's tokenisation adds a BOS that the prompt spells out
        prompts = [prompt.removeprefix(tokenizer.bos_token) for prompt in prompts]
    rows = [
        {"prompt": prompt, "gold": problem.gold}
        for prompt, ids, problem in zip(prompts, tokens, asked.problems, strict=True)
        if len(ids) <= room
    ]
    if not rows:
        raise ValueError(
            f"no prompt of {config.dataset.path} has {room} tokens or fewer, which is what loss.max_new_tokens leaves: "
            "raise train.max_length"
        )
    return rows, report | {"overlong_dropped": len(tokens) - len(rows), "prompts": len(rows)}
