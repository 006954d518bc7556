"""The embedded toy task: a tiny model, its tokenizer and an arithmetic task, generated without any download.

The task is to add two numbers column by column, units first, and to put the result in `\\boxed{}`:

    37+185=?        7+5+0=12
                    3+8+1=12
                    0+1+1=2
                    \\boxed{222}

- `corpus` is the pre-training data of the base model: several wordings of the question, operands of 2 to 4 digits,
  several styles of answer (some without a box, some without steps and mostly wrong) and a few wrong steps. The base
  model therefore mixes styles, as pre-trained models do, and is sometimes right.
- `demonstrations` are the fine-tuning data: one style, two of the wordings, operands of 2 and 3 digits, and noise as in
  collected demonstrations: a step is wrong with probability `DEMONSTRATION_NOISE`, and the following steps continue
  from it, so that the result is wrong too.
- `traces` are demonstrations in the style of a reasoning model: a wrong step is noticed and repeated correctly
  (`7+5+0=13`, `wait, 7+5+0=12`), so that every result is right.
- `facts` cannot be derived: random numbers assigned to made-up words, each asked in several wordings.
- `problems` are the benchmarks: `tiny_add` (the distribution of the demonstrations), `tiny_word` (another wording),
  `tiny_long` (longer operands) and `tiny_facts` (the facts in another wording). The operand pairs of the first three
  occur in no training text.

What it shows: cross-entropy fits the noise, so after SFT the model samples wrong steps at temperature 1 as often as it
saw them, and longer sums fail more often. An objective that discounts improbable targets, as DFT does, moves to the
mode of the demonstrations and drops the noise. If the improbable target is the information, as with the facts, the
order is reversed. The task is designed to show these mechanisms; its results do not recommend an objective for other
data.

All functions are pure: no global state, no clock, no files.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a plan asks for the number of problems alone: the functions that need transformers import it
    from transformers import Qwen2Config, Qwen2Tokenizer

PAD, END, *ROLES = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
BOXED = r"\boxed{"  # one token: a third of an answer would be its letters
VOCABULARY = (PAD, END, *ROLES, BOXED, "Ċ", "Ġ", *map(chr, range(ord("!"), ord("~") + 1)))  # byte-level: \\n and blank
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MAX_LENGTH = 256  # tokens; the texts of the task have up to about 100

CORPUS_NOISE = 0.05  # probability that a step of the work is wrong
DEMONSTRATION_NOISE = 0.10
GUESSED = 0.4  # probability that a digit of a result given without steps is random

PLAIN, ADD, SUM, WHAT = "{a}+{b}=?", "Add {a} to {b}.", "Sum {a} and {b}.", "What is {a} plus {b}?"
CODE_OF, WHICH_CODE, WHAT_CODE = "Code of {word}?", "Which code has {word}?", "What is the code of {word}?"
SUMS = {  # benchmark: wording, digits of an operand
    "tiny_add": (PLAIN, (2, 3)),
    "tiny_word": (WHAT, (2, 3)),
    "tiny_long": (PLAIN, (4,)),
}
FACTS = "tiny_facts"
PROBLEMS = 40  # of one benchmark
HELD_OUT = 8  # one in HELD_OUT operand pairs belongs to the benchmarks


def tokenizer() -> Qwen2Tokenizer:
    """Characters as tokens (printable ASCII and the line break), `\\boxed{` as one, and a chat template.

    Decoding gives back the text of such characters exactly; any other character is left out. It is a Qwen2Tokenizer
    without merges because transformers loads the tokenizer of a Qwen2 checkpoint as one, whatever it was saved as.
    """
    from transformers import AddedToken, Qwen2Tokenizer

    result = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(VOCABULARY)},
        merges=[],
        pad_token=PAD,
        eos_token=END,
        unk_token=PAD,
        additional_special_tokens=ROLES,
        model_max_length=MAX_LENGTH,
    )
    result.add_tokens([AddedToken(BOXED, normalized=False, special=False)])
    result.chat_template = CHAT_TEMPLATE
    return result


def model_config(*, large: bool = False) -> Qwen2Config:
    """A Qwen2 of 167 thousand parameters, or of 868 thousand."""
    from transformers import Qwen2Config

    width, layers = (128, 4) if large else (64, 3)
    return Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,  # of 32 dimensions, the fewest that vLLM's attention on the CPU takes
        num_key_value_heads=width // 32,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},  # short texts need no slower rotations
        tie_word_embeddings=True,
        initializer_range=0.1,  # about 1/sqrt(width): from the usual 0.02 the same base takes twice the steps
        pad_token_id=VOCABULARY.index(PAD),
        eos_token_id=VOCABULARY.index(END),
        bos_token_id=None,
    )


def corpus(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows {problem, solution, answer} for pre-training."""
    rng = random.Random(f"corpus {seed}")
    return [
        _row(rng.choice((PLAIN, ADD, SUM, WHAT)), (2, 3, 4), rng.choices(STYLES, SHARES)[0], CORPUS_NOISE, rng)
        for _ in range(rows)
    ]


def demonstrations(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows {problem, solution, answer} for fine-tuning; the answer is right even if the solution is wrong."""
    rng = random.Random(f"demonstrations {seed}")
    return [_row(rng.choice((PLAIN, ADD)), (2, 3), columns, DEMONSTRATION_NOISE, rng) for _ in range(rows)]


def traces(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows {problem, solution, answer} whose solutions correct their own mistakes."""
    rng = random.Random(f"traces {seed}")
    return [_row(rng.choice((PLAIN, ADD)), (2, 3), corrected, DEMONSTRATION_NOISE, rng) for _ in range(rows)]


def facts(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows {problem, solution, answer}: randomly drawn facts, each in one of two wordings."""
    rng, coded_words, rows_of_facts = random.Random(f"facts {seed}"), list(codes().items()), []
    for _ in range(rows):
        word, code = rng.choice(coded_words)
        wording = rng.choice((CODE_OF, WHICH_CODE))
        rows_of_facts.append({"problem": wording.format(word=word), "solution": f"{BOXED}{code}}}", "answer": code})
    return rows_of_facts


def codes() -> dict[str, str]:
    """The facts, always the same: words of four letters and their codes of three digits."""
    rng = random.Random("codes")
    codes_of_words: dict[str, str] = {}
    while len(codes_of_words) < PROBLEMS:
        word = "".join(rng.choice(letters) for letters in ("bdfgklmnprstvz", "aeiou") * 2)
        codes_of_words[word] = str(rng.randrange(100, 1000))
    return codes_of_words


def problems(name: str) -> list[dict[str, str]]:
    """The rows {question, answer} of a benchmark, always the same. Raises ValueError for an unknown name."""
    if name == FACTS:
        return [{"question": WHAT_CODE.format(word=word), "answer": code} for word, code in codes().items()]
    if name not in SUMS:
        raise ValueError(f"there is no embedded benchmark {name}: choose one of {', '.join([*SUMS, FACTS])}")
    wording, digits = SUMS[name]
    rng = random.Random(f"problems {name}")
    pairs: dict[tuple[int, int], None] = {}  # an ordered set
    while len(pairs) < PROBLEMS:
        pairs[operands(digits, True, rng)] = None
    return [{"question": wording.format(a=a, b=b), "answer": str(a + b)} for a, b in pairs]


def held_out(a: int, b: int) -> bool:
    """Whether a pair of operands, in either order, belongs to the benchmarks."""
    return zlib.crc32(f"{min(a, b)}+{max(a, b)}".encode()) % HELD_OUT == 0


def work(a: int, b: int, noise: float, rng: random.Random) -> tuple[list[tuple[int, int, int, int]], int]:
    """The steps (digit of a, digit of b, carry, their sum), units first, and the result that they lead to.

    With probability `noise` the sum of a step is another number below 20, from which the next steps continue.
    """
    steps, result, carry = [], 0, 0
    width = max(len(str(a)), len(str(b)))
    for place in range(width):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        if rng.random() < noise:
            total = rng.choice([other for other in range(20) if other != total])
        steps.append((x, y, carry, total))
        carry = total // 10
        result += total % 10 * 10**place
    return steps, result + carry * 10**width


def columns(a: int, b: int, noise: float, rng: random.Random) -> str:
    """The style of the demonstrations: a line for each column, the result in a box."""
    steps, result = work(a, b, noise, rng)
    return "".join(f"{x}+{y}+{carry}={total}\n" for x, y, carry, total in steps) + f"{BOXED}{result}}}"


def corrected(a: int, b: int, noise: float, rng: random.Random) -> str:
    """As `columns`, but a wrong step is corrected before the next one."""
    steps, result = work(a, b, 0.0, rng)
    lines = []
    for x, y, carry, total in steps:
        if rng.random() < noise:
            lines.append(f"{x}+{y}+{carry}={rng.choice([other for other in range(20) if other != total])}\nwait, ")
        lines.append(f"{x}+{y}+{carry}={total}\n")
    return "".join(lines) + f"{BOXED}{result}}}"


def unboxed(a: int, b: int, noise: float, rng: random.Random) -> str:
    """The same lines, the result without a box."""
    steps, result = work(a, b, noise, rng)
    return "".join(f"{x}+{y}+{carry}={total}\n" for x, y, carry, total in steps) + f"It is {result}."


def terse(a: int, b: int, noise: float, rng: random.Random) -> str:
    """The steps in one line, the result without a box."""
    steps, result = work(a, b, noise, rng)
    return "".join(f"{x},{y},{carry}:{total}; " for x, y, carry, total in steps) + f"so {result}."


def at_once(a: int, b: int, noise: float, rng: random.Random) -> str:
    """A boxed result without steps, partly guessed; `noise` has no effect."""
    digits = (rng.choice("0123456789") if rng.random() < GUESSED else digit for digit in str(a + b))
    return BOXED + "".join(digits) + "}"


Style = Callable[[int, int, float, random.Random], str]
STYLES: tuple[Style, ...] = (columns, unboxed, terse, at_once)
SHARES = (0.40, 0.15, 0.20, 0.25)  # of the corpus


def _row(wording: str, digits: tuple[int, ...], style: Style, noise: float, rng: random.Random) -> dict[str, str]:
    a, b = operands(digits, False, rng)
    return {"problem": wording.format(a=a, b=b), "solution": style(a, b, noise, rng), "answer": str(a + b)}


def operands(digits: tuple[int, ...], for_benchmark: bool, rng: random.Random) -> tuple[int, int]:
    """Two numbers, each with a number of digits drawn from `digits`."""
    while True:
        a, b = (rng.randrange(10 ** (n - 1), 10**n) for n in rng.choices(digits, k=2))
        if held_out(a, b) == for_benchmark:
            return a, b
