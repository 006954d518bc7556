"""What is reported of held-out rows: their number, and which of them are trained on all the same."""

from typing import Any

from losslab.data.examples import Examples


def describe(rows: Examples, training: Examples) -> tuple[dict[str, Any], list[str]]:
    """What the record and what the terminal say of held-out rows."""
    repeated, asked = shared(training, rows)
    about: dict[str, Any] = rows.report | {"repeated": repeated, "prompts_trained": asked}
    about |= {"notes": rows.notes} if rows.notes else {}
    lines = [f"held out: {', '.join(f'{v:,} {k}' for k, v in rows.report.items())}"]
    if rows.notes[:1] != training.notes[:1]:
        lines += [f"held out: {line}" for line in rows.notes]
    if asked:
        lines.append(
            f"{asked:,} of the {len(rows):,} held-out examples have a prompt that is trained on, and {repeated:,} are "
            "trained token for token"
        )
    return about, lines


def shared(training: Examples, held_out: Examples) -> tuple[int, int]:
    """How many held-out examples are trained token for token, and how many have a prompt that is trained on.

    Examples with images are alike only where these are too.
    """
    trained = [training.content(i) for i in range(len(training))]
    whole, prompts = {ids for ids, _ in trained}, {prompt for _, prompt in trained}
    others = [held_out.content(i) for i in range(len(held_out))]
    return sum(ids in whole for ids, _ in others), sum(prompt in prompts for _, prompt in others)
