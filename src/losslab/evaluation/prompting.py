"""How problems are put to a model: the frame of the prompt, and worked examples before the question."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from losslab.config.prompt import CHAT
from losslab.config.schema import Config
from losslab.data.images import PLACEHOLDER
from losslab.data.prompts import render
from losslab.data.row_templates import with_breaks
from losslab.evaluation.benchmarks import Benchmark

FIELDS = re.compile(r"\{(problem|answer)\}")


@dataclass(frozen=True)
class Prompt:
    """The prompt of a benchmark."""

    template: str  # `chat`, or a text with {problem}
    question: str  # a text with {problem}, which stands in the template's place of it
    example: str  # a text with {problem} and {answer}
    examples: tuple[tuple[str, str], ...]  # worked ones: problem and answer
    turns: bool  # examples are earlier turns of the chat, else texts before the question
    stop: tuple[str, ...]  # texts that end an answer, besides the model's

    @classmethod
    def of(cls, config: Config, benchmark: Benchmark) -> "Prompt":
        """The benchmark's own, else the configuration's `prompt`, else the model's."""
        common = config.prompt
        if benchmark.prompt is not None:
            turns = benchmark.prompt == CHAT and common.turns
            return cls(benchmark.prompt, "{problem}", common.example, benchmark.examples, turns, benchmark.stop)
        examples = benchmark.examples or tuple((example.problem, example.answer) for example in common.examples)
        stop = (*benchmark.stop, *(with_breaks(text) for text in common.stop))
        return cls(config.scoring_template, common.question, common.example, examples, common.turns, stop)

    @property
    def chat(self) -> bool:
        """Whether the model's chat template makes the prompt."""
        return self.template == CHAT

    @property
    def earlier(self) -> list[dict[str, str]]:
        """The examples as messages of the chat before the question; none where they are text."""
        roles = ("user", "assistant")
        shown = [(self._filled(self.question, problem), answer) for problem, answer in self.examples if self.turns]
        return [{"role": role, "content": text} for pair in shown for role, text in zip(roles, pair, strict=True)]

    def asked(self, problem: str) -> str:
        """The question as the template takes it, after the examples that are text."""
        shown = [] if self.turns else [self._filled(self.example, *example) for example in self.examples]
        return "".join([*shown, self._filled(self.question, problem)])

    def of_problem(
        self, problem: str, images: int, tokenizer: Any, arguments: Mapping[str, Any], reads_images: bool
    ) -> str:
        """The prompt of a problem that shows so many images; of an endpoint, which has no tokenizer here, the message
        that it puts into its chat template. Raises ValueError where `render` does.
        """
        if tokenizer is None and self.chat:
            return self.asked(self.placed(problem, images))
        return self.text(problem, tokenizer, arguments, images if reads_images else None)

    def text(self, problem: str, tokenizer: Any, arguments: Mapping[str, Any], images: int | None = None) -> str:
        """The whole prompt; `images` as `render` takes it. Raises ValueError where `render` does."""
        asked = self.asked(self.placed(problem, images or 0))
        return render(self.template, asked, tokenizer, arguments, self.earlier, images)

    @staticmethod
    def placed(problem: str, images: int) -> str:
        """A problem with a place for each of its images, which come before it unless its text has places."""
        return problem if PLACEHOLDER in problem else PLACEHOLDER * images + problem

    @staticmethod
    def _filled(template: str, problem: str, answer: str = "") -> str:
        """In one pass, so that braces of a problem stay as they are."""
        values = {"problem": problem, "answer": answer}
        return FIELDS.sub(lambda match: values[match[1]], with_breaks(template))


def announced(prompts: Mapping[str, Prompt], name: str) -> str | None:
    """A sentence on the worked examples of benchmarks; None where there are none."""
    counts: dict[int, list[str]] = {}
    for benchmark, prompt in prompts.items():
        counts.setdefault(len(prompt.examples), []).append(benchmark)
    counts.pop(0, None)
    parts = [
        f"{count} worked example{'s' * (count > 1)} before each question of {', '.join(names)}"
        for count, names in counts.items()
    ]
    return f"prompt {name}: {'; '.join(parts)}" if parts else None


def notes(config: Config, chosen: Sequence[Benchmark], prompts: Mapping[str, Prompt]) -> list[str]:
    """What of a chosen prompt or of a row does not reach the model, and what a benchmark asks twice or shows before."""
    warnings = []
    for benchmark in chosen:
        warnings += [
            f"{benchmark.name}: {count} problems have images in {column}, which are not shown: name it in "
            f"benchmark.{benchmark.name}.images"
            for column, count in benchmark.unshown.items()
        ]
        if benchmark.repeated:
            golds = f", {benchmark.contrary} of them with another gold answer" if benchmark.contrary else ""
            warnings.append(
                f"{benchmark.name}: {benchmark.repeated} of its {len(benchmark.problems)} problems ask what an earlier "
                f"one asks{golds}: each counts in the score"
            )
        if config.names.prompt and (benchmark.prompt is not None or benchmark.task is not None):
            warnings.append(f"{benchmark.name}: it has a prompt of its own, in place of prompt={config.names.prompt}")
        shown = {" ".join(problem.split()) for problem, _ in getattr(prompts.get(benchmark.name), "examples", ())}
        if asked := sum(" ".join(problem.question.split()) in shown for problem in benchmark.problems):
            warnings.append(f"{benchmark.name}: {asked} of its problems are worked examples of its prompt")
    return warnings
