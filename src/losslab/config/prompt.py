"""The keys of a prompt: the text around a problem when a model is scored, and worked examples before it."""

from dataclasses import dataclass

from omegaconf import MISSING

from losslab.keys import key

CHAT = "chat"  # the prompt made by the tokenizer's chat template
MODEL_PROMPT, CHANGED_PROMPT = "model", "changed"  # names in tables of prompts without a file in conf/prompt


@dataclass
class ExampleConfig:
    """A worked example: a problem and the answer that the model is shown."""

    problem: str = key(MISSING, "its text")
    answer: str = key(MISSING, "the whole answer, as a model shall write it")


@dataclass
class PromptConfig:
    """How problems are put to a model in scoring; without any of these keys by its own `model.eval_prompt`."""

    template: str | None = key(None, "in place of model.eval_prompt: `chat`, or a text with {problem}")
    question: str = key("{problem}", "what stands for the question in the template: a text with {problem}")
    examples: list[ExampleConfig] = key(list, "worked examples before the question: problem and answer of each")
    example: str = key(
        "Problem:\n{problem}\n\nSolution:\n{answer}\n\n",
        "an example as text before the question: a text with {problem} and {answer}",
    )
    turns: bool = key(False, "examples are earlier turns of the chat in place of text before the question")
    stop: list[str] = key(list, "texts that end an answer, besides model.stop")
