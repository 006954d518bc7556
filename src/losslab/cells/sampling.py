"""A model's own answers to the questions of a data set, each with its verdict, as data sets to train on.

What `results/sampled/<model>-<data set>/` holds:
    correct.jsonl    problem, solution                          the right answers, each once
    pairs.jsonl      problem, chosen, rejected                  a right and a wrong answer to a question
    graded.jsonl     problem, solution, reward, success_rate    all answers, 1 or 0, and the share of 1 of the question
    report.json      where they come from, and what was left out; written last
    questions.jsonl, protocol.yaml, engine.log                  as in the scores of a benchmark
"""

import random
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from losslab.cells.scoring import find
from losslab.cells.training import base_model
from losslab.composition.checks import check_alone, check_device
from losslab.composition.compose import given
from losslab.composition.record_file import read_record
from losslab.config.choices import Rules
from losslab.config.log import log
from losslab.config.schema import Config, ModelConfig
from losslab.data.messages import is_text
from losslab.distributed.signals import REQUEUE, Interrupted, ignore_stop_signals, raise_on_stop
from losslab.evaluation import engines
from losslab.evaluation.evaluate import answer
from losslab.evaluation.questions import NAME, check_verifier, questions
from losslab.evaluation.write_scores import keep
from losslab.files.json_files import write_json, write_lines
from losslab.files.locks import lock
from losslab.records.code_snapshot import commit, dirty

Row = dict[str, Any]


def sample(config: Config) -> None:
    """Answer, grade and write the data sets. Continues from the answers that are stored.

    Raises ValueError for a data set without usable questions, and for answers made by another protocol.
    """
    check_alone("losslab sample")
    check_device(config.machine)
    config = config.seeded
    engine = engines.choose(config.machine.engine)
    asked, counts = questions(config.dataset)
    check_verifier(config.dataset, [problem.gold for problem in asked.problems], config.machine.unsafe_code)
    name = f"{config.names.sampled}-{config.names.dataset}"
    folder = Path(config.machine.results) / "sampled" / name
    if several := counts.get("first_of_several_golds"):
        log.info(f"{name}: {several:,} questions have several true answers, of which the first is the gold")
    log.info(f"{name}: {len(asked.problems):,} questions, {config.eval.samples} answers to each")
    if config.plan:
        return
    try:
        with raise_on_stop(), lock(folder):
            model = base_model(replace(config, model=as_trained(config.model, given())))
            engines.warm_up(engine, config.machine.device)
            subject, samples, _ = answer(replace(config, model=model), model.path, folder, [asked])
            records = keep(subject, samples)[NAME]
            sets, tally = build(records, config.eval.samples, subject.protocol["seed"], asked.rules == Rules.code)
            for file, rows in sets.items():
                write_lines(folder / f"{file}.jsonl", rows)
            about = {"commit": commit(), "dirty": dirty(), "dataset": asdict(config.dataset)}
            about |= {"protocol": subject.protocol, "engine_version": engines.version(engine)}
            write_json(folder / "report.json", counts | tally | about)
    except (KeyboardInterrupt, Interrupted):
        ignore_stop_signals()
        log.warning(f"{name}: interrupted; the same command continues from here")
        sys.exit(REQUEUE)
    except RuntimeError as error:  # of a worker or an engine; complete samples are kept
        log.warning(f"{name}: failed: {error}")
        sys.exit(1)
    sizes = ", ".join(f"{len(rows):,} in {file}.jsonl" for file, rows in sets.items())
    log.info(f"{tally['acceptance_rate']:.1%} of {tally['answers']:,} answers are right; rows: {sizes}\n{folder}")


def as_trained(model: ModelConfig, asked: Collection[str]) -> ModelConfig:
    """The model with the prompts and stops in its record, where it is one that a cell made.

    `asked` are the keys of the command line. Raises ValueError if they, or the model's file, set other values.
    """
    cell = find(model.path)
    if cell is None:
        return model
    record = read_record(cell.folder / "config.yaml")
    published = record.model
    prompt = record.get("dataset", {}).get("template") or published.train_prompt
    arguments = dict(published.get("template_arguments", {}))
    recorded = {"train_prompt": prompt, "eval_prompt": published.eval_prompt, "template_arguments": arguments}
    recorded["stop"] = list(published.stop)
    for key, value in recorded.items():
        given = getattr(model, key)
        if given != value and (f"model.{key}" in asked or given != getattr(ModelConfig(), key)):
            raise ValueError(f"{model.path} is of a cell and is asked as it was trained: leave model.{key}={given} out")
    return replace(model, **recorded)


def build(
    records: Iterable[Mapping[str, Any]], count: int, seed: int, code: bool = False
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """The data sets from the records of the questions, of each the first `count` answers, and what was counted.

    An answer is right when the corrected verdict says so and it came to its end: one that was cut off would be trained
    to stop where it was cut, and is not a rejected one either. Nor is one on which grading ran out of time, which is in
    no set; a program that does (`code`) is wrong.
    """
    sets: dict[str, list[Row]] = {"correct": [], "pairs": [], "graded": []}
    tally = dict.fromkeys(("answers", "right", "unfinished", "empty", "timed_out"), 0)
    tally |= dict.fromkeys(("duplicates_removed", "questions_only_right", "questions_only_wrong"), 0)
    for record in records:
        problem, samples = record["question"], record["samples"][:count]
        right = [s["corrected"] and s["finish_reason"] == "stop" for s in samples]
        judged = [code or s["corrected"] or not s["timed_out"] for s in samples]
        texts = {True: dict[str, None](), False: dict[str, None]()}  # ordered sets
        for sample, verdict, known in zip(samples, right, judged, strict=True):
            text = sample["text"]
            if not known:
                continue
            if is_text(text):  # nothing can be trained on an empty one
                row = {"problem": problem, "solution": text}
                sets["graded"].append(row | {"reward": int(verdict), "success_rate": sum(right) / sum(judged)})
                if sample["finish_reason"] == "stop":
                    texts[verdict][text] = None
            else:
                tally["empty"] += 1
        sets["correct"] += [{"problem": problem, "solution": text} for text in texts[True]]
        if texts[True] and texts[False]:
            chance = random.Random(f"{seed} {record['index']}")
            chosen, rejected = (chance.choice(list(texts[verdict])) for verdict in (True, False))
            sets["pairs"].append({"problem": problem, "chosen": chosen, "rejected": rejected})
        tally["answers"] += len(samples)
        tally["right"] += sum(right)
        tally["unfinished"] += sum(s["finish_reason"] != "stop" for s in samples)
        tally["timed_out"] += sum(s["timed_out"] for s in samples)
        tally["duplicates_removed"] += sum(right) - len(texts[True])
        tally["questions_only_right"] += all(right)
        tally["questions_only_wrong"] += not any(right)
    rates = {"acceptance_rate": tally["right"] / tally["answers"]}
    return sets, tally | rates | {f"rows_{file}": len(rows) for file, rows in sets.items()}
