"""Optional measurements of a cell's trained model against its base; called by every process of the cell."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from losslab.config.forgetting import of_new_task
from losslab.config.log import log
from losslab.config.schema import Config, ModelConfig, TrainConfig
from losslab.data.examples import Examples, prepare
from losslab.data.tokenise import Tokeniser
from losslab.distributed.environment import is_main_process
from losslab.distributed.process_group import decide_on_main
from losslab.evaluation import sampled_answers
from losslab.files.content import content
from losslab.files.json_files import write_json
from losslab.files.locks import cached
from losslab.files.record_names import RECORD_VERSION
from losslab.models.loading import load_tokenizer
from losslab.planning.sizing import sized
from losslab.records.record import Cell
from losslab.statistics.intervals import Estimate
from losslab.training import kl_to_base, target_probabilities


def check_answers(tokeniser: Tokeniser, recipe: TrainConfig, cache: Path) -> None:
    """Raise ValueError, before the training, for data without the answers whose probabilities are asked for.

    Called once the questions are read and their prompts made, so that what is refused here concerns answers alone.
    """
    try:
        prepare(tokeniser, recipe, cache)
    except ValueError as error:
        raise ValueError(
            f"machine.probabilities measures answers: {error}, or leave machine.probabilities out"
        ) from error


def measure_probabilities(config: Config, cell: Cell, base: ModelConfig) -> None:
    """Record the probabilities of training targets before and after training, if they are requested and missing."""
    if not decide_on_main(config.machine, lambda: not cell.measured(config)):
        return
    asked = config.machine.probabilities
    assert asked is not None, "Cell.measured says so"
    laid_out = sized(config, asked * config.train.max_length)
    models = {"before": base, "after": replace(base, path=str(cell.model), revision=None)}
    histograms = {when: target_probabilities.of(laid_out, base, model) for when, model in models.items()}
    if is_main_process():
        about = {"version": RECORD_VERSION, "examples": asked}
        write_json(cell.probabilities, about | histograms)


def measure_kl_to_base(config: Config, cell: Cell, base: ModelConfig) -> None:
    """Record the KL of the trained model to its base on the samples of its scores, if it is requested and missing.

    Raises ValueError where the record of the scores holds no samples.
    """
    if not decide_on_main(config.machine, lambda: not cell.kl_measured(config)):
        return
    trained = replace(base, path=str(cell.model), revision=None)
    names, asked = of_new_task(config.benchmark), config.machine.kl_to_base
    assert asked is not None

    def prepared() -> dict[str, Any]:
        chosen = sampled_answers.read(config, cell.scores(config), load_tokenizer(trained), names, asked)
        examples = chosen.examples
        about = (content(base.path), base.revision, content(trained.path), str(config.train.precision))
        parts = [repr(about).encode(), *(a.tobytes() for a in (examples.tokens, examples.offsets, examples.prompts))]
        key = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        folder = cached(Path(config.machine.results) / "cache" / "kl_to_base" / key, examples.save)
        return {"data": str(folder), "problems": chosen.problems, "retokenised": chosen.retokenised}

    answers = decide_on_main(config.machine, prepared)
    examples = Examples.load(Path(answers["data"]))
    ratios = kl_to_base.of(sized(config, examples.report["tokens"]), base, trained, answers["data"])
    if is_main_process():
        about = {"version": RECORD_VERSION, "asked": asked, "benchmarks": names, "retokenised": answers["retokenised"]}
        result = kl_to_base.summary(ratios, examples.answers, answers["problems"])
        write_json(cell.kl_to_base(config), about | result)
        log.info(
            f"KL to the base: {Estimate(*result['per_token']):.4f} nats per token, on {result['answers']:,} samples, "
            f"of which {answers['retokenised']:,} have other tokens here than were sampled"
        )
