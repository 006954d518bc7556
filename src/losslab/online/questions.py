"""The questions of online training: prompts, each with its true answer, made once and kept."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from losslab.batches import Schedule
from losslab.data import is_text, read
from losslab.evaluation import corrected_text
from losslab.files import content, lock, read_json, write_json
from losslab.prompts import encode, render
from losslab.schema import Config


def prepare(config: Config, tokenizer: Any, cache: Path) -> tuple[Path, dict[str, int], int]:
    """Read the questions of a data set once and keep them; returns their folder, a report of what was left out, and
    the number of steps.

    A prompt that leaves no room for the longest answer is left out, and so is a question without a true answer: that is
    the row's `dataset.gold_column`, or else what its solution puts in a box. Raises ValueError where no question is
    left.
    """
    from datasets import Dataset

    dataset, template = config.dataset, config.model.train_prompt
    room = config.train.max_length - instantiate(config.loss).answer_tokens(config.train.max_length)
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    about = [
        {key: str(value) for key, value in vars(dataset).items()} | {"path": content(dataset.path)},
        [vocabulary, tokenizer.chat_template, template, room],
    ]
    folder = cache / "questions" / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    with lock(folder.with_name(f"{folder.name}.lock")):  # the cells of a sweep may start together
        if not folder.exists():
            rows, report = ask(config, room, tokenizer)
            temporary = folder.with_name(f".{folder.name}.writing")
            shutil.rmtree(temporary, ignore_errors=True)
            Dataset.from_list(rows).save_to_disk(temporary)
            write_json(temporary / "report.json", report)
            temporary.rename(folder)
    kept = read_json(folder / "report.json")
    return folder, kept, schedule(config, kept["questions"]).steps


def schedule(config: Config, questions: int) -> Schedule:
    """Which questions each step asks; those that fill no step are left out."""
    train = config.train
    return Schedule(questions, train.batch_size, train.epochs, config.seed, drop_last=True, max_steps=train.max_steps)


def ask(config: Config, room: int, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows {prompt, gold} of a data set, and how many there are and why others are not."""
    dataset = config.dataset
    found = list(read(replace(dataset, answer_column=dataset.gold_column or dataset.answer_column)).values())
    usable = [row for row in found if all(map(is_text, row))]
    if len(found) - len(usable) > dataset.max_broken * len(found):
        raise ValueError(
            f"{len(found) - len(usable)} of {len(found)} rows of {dataset.path} have no usable prompt or answer: mend "
            "them or raise dataset.max_broken"
        )
    golds = [answer if dataset.gold_column else boxed(answer) for _, answer in usable]
    known = [(row[0], gold) for row, gold in zip(usable, golds, strict=True) if gold]
    prompts = [render(config.model.train_prompt, problem, tokenizer) for problem, _ in known]
    tokens = encode(prompts, tokenizer) if prompts else []
    if prompts and tokenizer(prompts[0])["input_ids"] != tokens[0]:  # the trainer's tokeniser adds BOS by itself
        prompts = [prompt.removeprefix(tokenizer.bos_token) for prompt in prompts]
    rows = [
        {"prompt": prompt, "gold": gold}
        for prompt, ids, (_, gold) in zip(prompts, tokens, known, strict=True)
        if len(ids) <= room
    ]
    report = {"rows": len(found), "broken": len(found) - len(usable), "without_answer": len(usable) - len(known)}
    report |= {"overlong_dropped": len(known) - len(rows), "questions": len(rows)}
    if not rows:
        raise ValueError(
            f"{dataset.path} has no question for online training ({report['without_answer']} of {len(found)} rows have "
            f"no true answer, {report['overlong_dropped']} have prompts of more than {room} tokens): set "
            "dataset.gold_column, or raise train.max_length"
        )
    return rows, report


def boxed(solution: str) -> str:
    r"""What a solution puts in its last \boxed{}; "" where it has none."""
    return corrected_text.extract(solution) if "box" in solution else ""
