"""What `losslab data` shows of a data set."""

import json

import families
import pytest
from transformers import Qwen2Config

from losslab.commands import data
from losslab.data import formats
from losslab.data.preview import Bin, histogram

SAID = (formats.SAY, formats.WRONG)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer in a model's folder, and rows: two alike, one more with their prompt, one too long, two broken."""
    folder = tmp_path_factory.mktemp("preview")
    tokenizer = families.chatml(eos="<|endoftext|>")
    tokenizer.save_pretrained(folder / "model")
    Qwen2Config(vocab_size=len(tokenizer)).save_pretrained(folder / "model")  # no weights: none are loaded
    ask, say, more, then = formats.ASK, formats.SAY, formats.MORE, formats.THEN
    long = [ask, say | {"content": "\n".join("4" * 30)}, more, then]
    conversations = [
        [ask, say],
        [ask, say, more, then],
        [ask, say],
        [ask],
        [ask, say | {"content": "5" * 90}],
        [],
        long,
    ]
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"messages": rows, "id": 1}) + "\n" for rows in conversations)
    )
    return folder


def look(place, capsys, *arguments) -> str:
    chosen = [
        f"model={place / 'model'}",
        "dataset=file",
        f"dataset.path={place / 'rows.jsonl'}",
        "train.max_length=100",
    ]
    data.main([*chosen, *arguments])
    return capsys.readouterr().out.replace(f"{place}/", "")


def test_a_data_set_in_numbers_and_rows(place, capsys):
    out = look(place, capsys)
    lines = [line.strip() for line in out.splitlines()]
    assert "rows.jsonl  7 rows, 3 examples" in lines
    assert "conversations of 1 to 2 turns in `messages`; trained: every turn of the assistant" in lines
    assert "not read: id" in lines
    assert lines[5:11] == [
        # The prompt has 23 tokens and the answer 2; so have the line break with the second prompt, and its answer.
        "100  tokens, of which 8 are trained (8%)",
        "1  examples that repeat another one token for token",
        "3  examples whose prompt occurs in others",
        "2  left out: each is longer than train.max_length=100 (rows.jsonl:5, rows.jsonl:7)",
        "1  left out: each has no assistant's turn in `messages` (rows.jsonl:4)",
        "1  left out: each has an empty list in `messages` (rows.jsonl:6)",
    ]
    assert lines[-1] == "28.6% of the rows cannot be used, more than dataset.max_broken=0.01: training would stop here"
    row = out[out.index("rows.jsonl:2  ") :].split("\n\n")[0].splitlines()
    assert row[0] == "rows.jsonl:2  50 tokens, 4 trained   ▌ trained  │ not"
    assert row[1:] == [
        "│ <|im_start|>user↵", "│ 2+2?<|im_end|>↵", "│ <|im_start|>assistant↵", "▌ 4<|im_end|>", "│ ↵",
        "│ <|im_start|>user↵", "│ +1?<|im_end|>↵", "│ <|im_start|>assistant↵", "▌ 5<|im_end|>",
    ]  # fmt: skip
    assert "\x1b" not in out  # plain where it is no terminal


def test_the_prompt_is_that_of_the_data_set_where_it_has_one(place, capsys):
    (place / "plain.jsonl").write_text(json.dumps({"problem": "2+2?", "solution": "4"}) + "\n")
    out = look(place, capsys, f"dataset.path={place / 'plain.jsonl'}", "dataset.template='Q: {problem} A: '")
    assert [line for line in out.splitlines() if line[:1] in ("▌", "│")] == ["│ Q: 2+2? A: ", "▌ 4<|endoftext|>"]


def test_rows_that_are_held_out_are_counted_beside_those_of_training(place, capsys):
    (place / "held.jsonl").write_text("".join(json.dumps({"messages": [formats.ASK, say]}) + "\n" for say in SAID))
    out = " ".join(look(place, capsys, f"dataset.validation={place / 'held.jsonl'}").split())
    assert (
        "held out: 2 rows of held.jsonl, 2 examples, of which 2 have a prompt that is also trained, and 1 are trained"
        in out
    )


def test_a_share_that_is_none_is_refused(place, capsys):
    for share in ("0", "0.0", "1", "nan"):
        with pytest.raises(ValueError, match=f"dataset.validation is {share}: set it between 0.0001 and 0.9"):
            look(place, capsys, f"dataset.validation={share}")


def test_one_row_with_its_ids(place, capsys):
    out = look(place, capsys, "row=3", "ids=true")
    vocabulary = families.chatml().get_vocab()
    assert out.count("rows.jsonl:3  ") == 1 and f"▌ '4':{vocabulary['4']} '<|im_end|>':2\n" in out
    shown = look(place, capsys, "train.max_length=200", "row=7")
    assert "▌ … 18 more lines; full=true row=7 shows them …" in shown and shown.count("▌ 4↵") == 11
    assert look(place, capsys, "train.max_length=200", "row=7", "full=true").count("▌ 4↵") == 29
    for row, reason in {
        "4": "row 4 cannot be used: it has no assistant's turn",
        "5": "row=5 is not among",
        "x": "row=x is no",
    }.items():
        with pytest.raises(ValueError, match=reason):
            look(place, capsys, f"row={row}")
    with pytest.raises(ValueError, match="ids=1 is neither true nor false"):
        look(place, capsys, "ids=1")


def test_colours_on_a_terminal(place, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = look(place, capsys, "show=1")
    assert "\x1b[32m▌ 4\x1b[0m\x1b[1;32m<|im_end|>\x1b[0m" in out and "\x1b[2m│ 2+2?" in out


def test_the_formats_are_printed(capsys):
    data.main(["formats"])
    assert capsys.readouterr().out == formats.markdown()


def test_histograms_have_round_bins():
    assert histogram([1, 1, 2, 4]) == [Bin(1, 2, 2), Bin(2, 3, 1), Bin(3, 4, 0), Bin(4, 5, 1)]
    assert histogram([0, 37, 99]) == [Bin(i, i + 10, int(i in (0, 30, 90))) for i in range(0, 100, 10)]
    tail = histogram([*range(1000), 10**6])
    assert tail[-1] == Bin(1000, None, 1) and sum(part.count for part in tail) == 1001
    assert histogram([7]) == [Bin(7, 8, 1)]
