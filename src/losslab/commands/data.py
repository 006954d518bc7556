"""Preview a data set before training: rows as the model will see them, lengths, turns, and rows that are left out.

losslab data dataset=file dataset.path=rows.jsonl model=Qwen/Qwen3-0.6B     the keys are those of losslab train
  show=3        how many rows to print, spread over the data set
  row=17        only this row, by its number in the data set
  full=true     long rows in full
  ids=true      with the id of every token
losslab data results/cells/CELL     after training: some examples, each token coloured by its probability
  by=weight                         or by its weight under the objective
losslab data formats     the layouts of rows and file formats that are read, and those that are refused
"""

from collections.abc import Sequence
from typing import Any

OPTIONS = ("show", "row", "full", "ids")
SHOWN = 3
HEAD, TAIL = 9, 3  # lines of a long part that are shown
WIDTH = 32  # of the bars
PLACES = 5  # places that are named for each reason
EIGHTHS = " ▏▎▍▌▋▊▉"
TRAINED, SEEN = "▌", "│"
BREAK = "↵"


def main(arguments: list[str]) -> None:
    if arguments == ["formats"]:
        from losslab.data import formats

        print(formats.markdown(), end="")
        return
    if len(names := [argument for argument in arguments if "=" not in argument]) == 1:
        after_training(names[0], [argument for argument in arguments if "=" in argument])
        return
    from losslab.commands.cli import flag

    options = dict(argument.split("=", 1) for argument in arguments if argument.partition("=")[0] in OPTIONS)
    overrides = [argument for argument in arguments if argument.partition("=")[0] not in OPTIONS]
    flags = {key: flag(options, key) for key in ("full", "ids")}
    show, row = _number(options, "show", SHOWN), _number(options, "row", None)

    from dataclasses import replace

    from rich.console import Console

    from losslab.composition.check_data import check_held_out
    from losslab.composition.compose import composed
    from losslab.data import preview
    from losslab.data.examples import collect, notes
    from losslab.data.rows import read
    from losslab.data.tokenise import Tokeniser
    from losslab.keys import check_bounds
    from losslab.models.loading import load_tokenizer
    from losslab.models.processors import image_inputs

    config = composed(overrides).seeded
    check_bounds(config)
    check_held_out(config)
    tokenizer = load_tokenizer(config.model)
    rows = read(config.dataset)
    model = replace(config.model, train_prompt=config.train_prompt)  # that of the data set, where it has one
    tokeniser = Tokeniser(model, config.dataset, tokenizer, image_inputs(config.model))
    collected = collect(rows, config.train, tokeniser)
    console = Console(highlight=False)
    summary(console, rows, collected, notes(rows, tokeniser))
    if config.dataset.validation is not None and collected.tokens:
        held_out = read(config.dataset, held_out=True)
        console.print(held_out_sentence(rows, collected, held_out, collect(held_out, config.train, tokeniser)))
    unit = len(rows.layout.answers)
    for first in chosen(collected, unit, show, row):
        for i in range(first, first + unit):
            example(console, preview.example(rows, collected, i, tokenizer), tokenizer, **flags)
    if (share := len(collected.broken) / len(rows)) > config.dataset.max_broken:
        console.print(
            f"{share:.1%} of the rows cannot be used, more than dataset.max_broken={config.dataset.max_broken}: "
            "training would stop here",
            style="bold red",
            soft_wrap=True,
        )


def after_training(folder: str, options: list[str]) -> None:
    """Print token probabilities of a cell's examples after training. Raises ValueError if its record has none."""
    from pathlib import Path

    from rich.console import Console

    from losslab.cells import show_tokens
    from losslab.commands.cli import parse
    from losslab.files.record_names import TOKENS
    from losslab.records.tokens import read_examples

    _, values = parse(options, ("by",))
    if (by := values.get("by", "probability")) not in ("probability", "weight"):
        raise ValueError(f"by={by} does not exist: set it to probability or weight")
    if not (Path(folder) / "cell.json").is_file():
        raise ValueError(f"{folder} is not the folder of a cell: give one of results/cells")
    if not (examples := read_examples(Path(folder))):
        raise ValueError(f"{folder} has no {TOKENS}: it is written when training on demonstrations ends")
    show_tokens.show(Console(highlight=False), Path(folder).name, examples, by)


def chosen(collected: Any, unit: int, show: int, row: int | None) -> list[int]:
    """The first example of each row to print. Raises ValueError for a row that has none."""
    firsts = list(range(0, len(collected.tokens), unit))
    if row is None:
        return (
            [firsts[i * len(firsts) // show] for i in range(min(show, len(firsts)))] if show <= len(firsts) else firsts
        )
    if row in collected.broken:
        raise ValueError(f"row {row} cannot be used: it {collected.broken[row]}")
    those = [i for i in firsts if collected.numbers[i] == row]
    if not those:
        raise ValueError(f"row={row} is not among the examples: it is too long, was not selected, or does not exist")
    return those


def summary(console: Any, rows: Any, collected: Any, sentences: list[str]) -> None:
    """The data set in numbers."""
    from rich.text import Text

    from losslab.data import preview

    count, lengths = len(collected.tokens), [len(ids) for ids in collected.tokens]
    console.print()
    console.print(f"[bold]{rows.table.path}[/]  {len(rows):,} rows, {count:,} examples", soft_wrap=True)
    for sentence in sentences:
        console.print(f"  {sentence}", soft_wrap=True, markup=False)
    console.print()
    facts: list[tuple[int, str]] = []
    trained = [sum(stop - start for start, stop in spans) for spans in collected.spans]
    if count:
        share = sum(trained) / sum(lengths)
        facts.append((sum(lengths), f"tokens, of which {sum(trained):,} are trained ({share:.0%})"))
        whole, prompts = preview.repeated(collected)
        facts += [(whole, "examples that repeat another one token for token")]
        facts += [(prompts, "examples whose prompt occurs in others")]
    for reason, places in preview.left_out(rows, collected):
        named = ", ".join(places[:PLACES]) + (", …" if len(places) > PLACES else "")
        facts.append((len(places), f"left out: each {reason} ({named})"))
    if collected.truncated:
        facts.append((len(collected.truncated), f"cut to train.max_length={collected.limit}"))
    for number, sentence in facts:
        style = "red" if sentence.startswith("left out") else ""
        console.print(Text(f"{number:>11,}  {sentence}", style=style), soft_wrap=True)
    if count:
        bars(console, "tokens of an example", [*lengths, *(n for _, n in collected.overlong)], collected.limit)
        bars(console, "trained tokens", trained)
        if max(turns := preview.turns(collected)) > 1:
            bars(console, "trained turns", turns)


def held_out_sentence(rows: Any, collected: Any, held_out: Any, others: Any) -> str:
    """How many rows are held out, and how many of their examples are also trained."""
    from losslab.data.held_out_rows import shared

    if not others.tokens:
        return f"\nheld out: {len(held_out):,} rows of {held_out.table.path}, of which none can be used"
    repeated, asked = shared(collected.examples(rows, [], ""), others.examples(held_out, [], ""))
    return (
        f"\nheld out: {len(held_out):,} rows of {held_out.table.path}, {len(others.tokens):,} examples, of which "
        f"{asked:,} have a prompt that is also trained, and {repeated:,} are trained token for token"
    )


def bars(console: Any, title: str, values: Sequence[int], limit: int | None = None) -> None:
    """Print a histogram; bins beyond `limit` are red."""
    from losslab.data import preview

    bins = preview.histogram(values)
    ordered = sorted(values)
    console.print(f"\n[bold]{title}[/]  median {ordered[len(ordered) // 2]:,}, most {ordered[-1]:,}")
    most, wide = max(part.count for part in bins), len(f"{max(part.stop or part.start for part in bins):,}")
    for part in bins:
        eighths = round(8 * WIDTH * part.count / most) or int(part.count > 0)
        drawn = ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).strip()
        alone = part.stop is not None and part.stop - part.start == 1
        until = (
            " " * (wide + 3) if alone else " –" + ("…" if part.stop is None else f"{part.stop - 1:,}").rjust(wide + 1)
        )
        beyond = limit is not None and part.start > limit
        colour = "red" if beyond else "green"
        console.print(f"  {part.start:>{wide},}{until}  [{colour}]{drawn}[/] {part.count:,}", soft_wrap=True)


def example(console: Any, shown: Any, tokenizer: Any, full: bool, ids: bool) -> None:
    """Print one `preview.Example`, its trained parts marked by a bar and in green."""
    from rich.text import Text

    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    console.print()
    title = f"{shown.title}  {shown.tokens:,} tokens, {shown.trained:,} trained"
    console.print(Text(f"{title}   {TRAINED} trained  {SEEN} not", style="bold"), soft_wrap=True)
    for part in shown.segments:
        lines = tokens(part.ids, tokenizer) if ids else part.text.split("\n")
        if not ids:
            lines = [line + BREAK for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        if not full and len(lines) > HEAD + TAIL + 1:
            rest = len(lines) - HEAD - TAIL
            lines = [*lines[:HEAD], f"… {rest} more lines; full=true row={shown.number} shows them …", *lines[-TAIL:]]
        for line in lines:
            printed = Text(f"{TRAINED if part.trained else SEEN} {line}", style="green" if part.trained else "dim")
            printed.highlight_words(special, "bold")
            console.print(printed, soft_wrap=True)


def tokens(ids: list[int], tokenizer: Any) -> list[str]:
    """Tokens with their ids, a line for each line of the text."""
    lines, line = [], ""
    for token in ids:
        text = tokenizer.decode([token])
        line += f"{text!r}:{token} "
        if "\n" in text:
            lines.append(line.rstrip())
            line = ""
    return [*lines, line.rstrip()] if line else lines


def _number(options: dict[str, str], key: str, default: Any) -> Any:
    if key in options and not options[key].isdigit():
        raise ValueError(f"{key}={options[key]} is not a whole number")
    return int(options[key]) if key in options else default
