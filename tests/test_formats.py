"""Every layout of docs/data.md, from a file to tokens, and every kind of file."""

import gzip
import json
import re

import families
import numpy as np
import pyarrow
import pytest
import yaml
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from losslab.config.paths import CONF
from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
from losslab.data import formats
from losslab.data.examples import Examples, prepare
from losslab.data.row_notes import notes
from losslab.data.rows import asked, read, texts
from losslab.data.table import count
from losslab.data.tokenise import Tokeniser

MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.S)
PAIR = {"problem": "2+2?", "solution": "4"}


def dataset_of(path, keys=(), **options) -> DatasetConfig:
    return DatasetConfig(path=str(path), **(dict(key.split("=", 1) for key in keys) | options))


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("layout", formats.READ, ids=lambda layout: layout.name)
def test_a_layout_is_read_as_documented(layout, tmp_path):
    dataset = dataset_of(write(tmp_path / "rows.jsonl", [layout.row]), layout.keys)
    tokenizer = families.chatml()
    examples = Examples.load(prepare(Tokeniser(ModelConfig(), dataset, tokenizer), TrainConfig(), tmp_path))
    pair = len(layout.trained) * ("rejected_column=rejected" in layout.keys)
    assert (len(examples), examples.unit) == (pair or 1, pair or 1)
    trained, said = [], []
    for i in range(len(examples)):
        ids, marks = examples.tokens[examples.offsets[i] : examples.offsets[i + 1]], examples.is_trained(i)
        parts = np.split(ids, np.flatnonzero(np.diff(marks)) + 1)  # said and trained in turns
        trained += map(tokenizer.decode, parts[1::2])
        text = "".join(tokenizer.decode(part) for part in parts[::2]).replace("<|im_start|>assistant\n\n", "")
        said.append(" ".join(f"{role}: {content}" for role, content in MESSAGE.findall(text)))
    assert trained == [f"{text}<|im_end|>" for text in layout.trained]
    assert set(said) == {layout.said}


@pytest.mark.parametrize("layout", formats.REFUSED, ids=lambda layout: layout.name)
def test_a_layout_is_refused_as_documented(layout, tmp_path):
    dataset = dataset_of(write(tmp_path / "rows.jsonl", [layout.row]), layout.keys)
    with pytest.raises(ValueError, match=re.escape(layout.refused)):
        prepare(Tokeniser(ModelConfig(), dataset, families.chatml()), TrainConfig(), tmp_path)


def test_the_documents_have_the_table(root):
    assert formats.markdown() in (root / "docs/data.md").read_text()


def test_one_column_for_prompt_and_answer_is_a_conversation(tmp_path):
    """What a user tries first; it made an answer of the question."""
    rows = [{"messages": [formats.ASK, formats.SAY], "source": "x"}]
    dataset = dataset_of(write(tmp_path / "rows.jsonl", rows), ("prompt_column=messages", "answer_column=messages"))
    row = read(dataset).usable[1]
    assert (row.prompt, row.answers) == ([], ([formats.ASK, formats.SAY],))
    both = dataset_of(write(tmp_path / "rows.jsonl", [PAIR]), ("prompt_column=solution",), answer_column="solution")
    with pytest.raises(ValueError, match="prompt_column and answer_column are both solution: name two columns"):
        read(both)


def test_conversations_of_a_pair_answer_the_same_question(tmp_path):
    ask, say, wrong = formats.ASK, formats.SAY, formats.WRONG
    other, kind = {"role": "user", "content": "2 + 2?"}, {"role": "system", "content": "Be kind."}
    rows = [
        {"system": "Be brief.", "chosen": [ask, say], "rejected": [other, wrong]},
        {"chosen": [formats.BRIEF, ask, say], "rejected": [kind, ask, wrong]},
        {"chosen": [formats.BRIEF, ask, say], "rejected": [ask, wrong]},
        {"system": "Be brief.", "chosen": [ask, say], "rejected": [ask, wrong, formats.MORE, formats.THEN]},
    ]
    found = read(dataset_of(write(tmp_path / "rows.jsonl", rows), formats.PAIRS))
    assert found.broken == dict.fromkeys(
        (1, 2, 3), "has a chosen and a rejected answer to different questions or system prompts"
    )
    assert found.usable[4].prompt == [formats.BRIEF, ask]  # of both


def test_questions_that_can_be_asked_by_themselves(tmp_path):
    """As for a model's own answers and for online training, which ask without a conversation around it."""
    system, ask, say, more = formats.BRIEF, formats.ASK, formats.SAY, formats.MORE
    conversations = [[ask, say], [system, ask, say], [ask, say, more, say]]
    whole = dataset_of(write(tmp_path / "a.jsonl", [{"messages": messages} for messages in conversations]))
    assert list(asked(whole)) == [("2+2?", "4"), (None, "4"), (None, "4")]
    prompts = [{"prompt": [ask], "gold": 4}, {"prompt": [system, ask], "gold": ["4", "four"]}]
    keys = ("prompt_column=prompt", "answer_column=gold", "gold_column=gold")
    assert list(asked(dataset_of(write(tmp_path / "b.jsonl", prompts), keys))) == [("2+2?", 4), (None, ["4", "four"])]
    answers = [[say], [ask, say], [ask, say, more, say], [say, more, say], [system, ask, say]]
    rows = [{"prompt": "2+2?", "completion": answer, "gold": "4"} for answer in answers]
    expected = [("2+2?", "4")] * 2 + [(None, "4")] * 3
    for more_keys in ((), ("gold_column=gold",)):
        beside = dataset_of(write(tmp_path / "c.jsonl", rows), ("answer_column=completion", *more_keys))
        assert list(asked(beside)) == expected
    assert list(texts(whole))[2] == ["2+2?", "2+2?", "4", "+1?", "4"]


def test_of_several_right_answers_the_first_is_learned_and_the_others_are_counted(tmp_path):
    rows = [{"question": "2+2?", "answer": answers} for answers in (["4", "four", "IV"], ["4"], "4", ["4", "four"])]
    dataset = dataset_of(write(tmp_path / "a.jsonl", rows))
    found = read(dataset)
    assert [row.answers for row in found.usable.values()] == [("4",)] * 4
    told = notes(found, Tokeniser(ModelConfig(), dataset, families.chatml()))
    assert told[1:] == ["3 further right answers of 2 rows train nothing: the first of a list does"]
    asked_of = dataset_of(write(tmp_path / "b.jsonl", [{"question": ["2+2?"], "answer": "4"}]))
    assert read(asked_of).usable[1].prompt == "2+2?"
    several = dataset_of(write(tmp_path / "c.jsonl", [{"question": ["2+2?", "3+3?"], "answer": "4"}]))
    assert read(several).broken == {1: "has a list of 2 texts in `question`: none of them is known to be the prompt"}


def test_what_stands_beside_a_question_is_not_left_out_when_it_is_asked(tmp_path):
    beside = [{}, {"system": "Be brief."}, {"tools": [{"name": "add"}]}, {"chat_template_kwargs": {"a": 1}}]
    rows = [{"problem": "2+2?", "solution": "4"} | more for more in beside]
    assert list(asked(dataset_of(write(tmp_path / "a.jsonl", rows)))) == [("2+2?", "4"), *[(None, "4")] * 3]
    spoken = [{"messages": [formats.ASK, formats.SAY]} | more for more in beside]
    assert list(asked(dataset_of(write(tmp_path / "b.jsonl", spoken)))) == [("2+2?", "4"), *[(None, "4")] * 3]


SPOKEN = [{"problem": "Où?", "solution": "là", "reward": 1}, {"problem": "2,\n2", "solution": '"4"', "reward": 0}]


def delimited(sign: str) -> str:
    quoted = [[f'"{value}"' for value in ("Où?", "là", 1)], [f'"{value}"' for value in ("2,\n2", '""4""', 0)]]
    return "\n".join(sign.join(line) for line in [["problem", "solution", "reward"], *quoted]) + "\n"


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in SPOKEN)
FILES = {
    "rows.jsonl": LINES, "rows.JSONL": LINES, "rows.ndjson": LINES, "rows.json": json.dumps(SPOKEN, indent=1),
    "lines.json": LINES, "rows.csv": delimited(","), "semicolons.csv": delimited(";"), "rows.TSV": delimited("\t"),
        "marked.csv": "\ufeff" + delimited(","),
}  # fmt: skip
BINARY = ["rows.parquet", "rows.arrow", "file.arrow", "saved", "split"]


def bytes_of(name, folder) -> bytes:
    if name in FILES:
        return FILES[name].encode()
    data = Dataset.from_list(SPOKEN)
    file = folder / f"_{name}"
    if name == "rows.parquet":
        data.to_parquet(file)
    else:
        make = pyarrow.ipc.new_file if name == "file.arrow" else pyarrow.ipc.new_stream
        with pyarrow.OSFile(str(file), "wb") as sink, make(sink, data.data.table.schema) as writer:
            writer.write_table(data.data.table)
    return file.read_bytes()


@pytest.mark.parametrize("packed", ["", ".gz", ".ZST"])
@pytest.mark.parametrize("name", [*FILES, *BINARY])
def test_kinds_of_files(name, packed, tmp_path):
    path = tmp_path / f"{name}{packed}"
    if name in ("saved", "split"):
        if packed:
            pytest.skip("a folder")
        data = Dataset.from_list(SPOKEN)
        (data if name == "saved" else DatasetDict(train=data, test=data.select([0]))).save_to_disk(path)
    else:
        content = bytes_of(name, tmp_path)
        if packed == ".ZST":
            with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
                stream.write(content)
        else:
            path.write_bytes(gzip.compress(content) if packed else content)
    dataset = dataset_of(path, ("reward_column=reward", "success_rate_column=reward"))
    rows = read(dataset)
    found = [(row.prompt, row.answers, row.rewards) for row in rows.usable.values()]
    assert found == [("Où?", ("là",), (1, 1)), ("2,\n2", ('"4"',), (0, 0))]
    assert count(dataset) in (2, None)
    one = read(dataset_of(path, rows=1, seed=1))
    assert len(one) == 1 and one.table.place(list(one.usable)[0]).startswith(("row", str(path)))
    if name == "split":
        assert len(read(dataset_of(path, split="test"))) == 1


def test_rows_are_named_by_file_and_line(tmp_path):
    write(tmp_path / "part-1.jsonl", [PAIR] * 3)
    (tmp_path / "part-2.jsonl").write_text(
        "\n\n" + json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"solution": None}) + "\n"
    )
    tokeniser = Tokeniser(ModelConfig(), dataset_of(tmp_path / "part-*.jsonl"), families.chatml())
    with pytest.raises(ValueError, match=r"1 of 5 rows of .*part-2.jsonl:4 has no text in `solution`\): mend them or"):
        prepare(tokeniser, TrainConfig(), tmp_path)


DAMAGED = {
    "latin.jsonl": (b'{"problem": "a"}\n{"problem": "\xe9t\xe9"}\n',
        r"latin.jsonl:2: byte 14 of this line \(0xe9\) is not UTF-8"),
    "wide.csv": ("problem,solution\n1,2\n".encode("utf-16"), "wide.csv is in UTF-16: convert it"),
    "deep.jsonl": (b'{"problem": ' + b"[" * 100_000 + b"\n", "deep.jsonl:1: this line is nested too deeply"),
    "cut.jsonl": (b'{"problem": "1"}\n{"problem": "1',
        r"cut.jsonl:2: this line is not valid JSON, correct or remove it \(Unterm"),
    "list.jsonl": (b'{"problem": "1"}\n\n[1, 2]\n', "list.jsonl:3: this line is a JSON list, not an object"),
    "mid.json": (b'[{"problem": "1"},\n {"problem" "1"}]', "mid.json:2: the file is not valid JSON here"),
    "short.csv": (b'problem,solution\n1,2\n"3\n4"\n', "csv:4: this row has 1 fields, but the header 2: correct it"),
    "twice.tsv": (b"problem\tproblem\n1\t2\n", "twice.tsv:1: the header has a column twice"),
    "quote.csv": (b'problem,solution\n1,"2"3\n', "quote.csv:2: this line cannot be read"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode() * 99)[:-9],
        r"cut.jsonl.gz: the file is damaged or truncated after line"),
    "no.jsonl.gz": (b'{"problem": "1"}\n',
        r"no.jsonl.gz: the file is damaged or truncated after line 0 \(Not a gzipped"),
    "no.parquet": (b"PAR1 and no more", "no.parquet is damaged or not a .parquet file"),
    "empty.jsonl": (b"", "empty.jsonl has no rows: check the file"),
    "rows.txt": (b"2+2? 4\n", "rows.txt is not a table: give a .jsonl, .ndjson"),
    "rows": (b"2+2? 4\n", "rows is not a table"),
    "half.jsonl": (rb'{"problem": "\ud83d", "solution": "4"}',
        "half.jsonl:1 has half of a surrogate pair in `problem`"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_with_their_line(name, tmp_path):
    content, reason = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as refusal:
        prepare(Tokeniser(ModelConfig(), dataset_of(tmp_path / name), families.chatml()), TrainConfig(), tmp_path)
    assert "\n" not in str(refusal.value)


def parts(folder, *columns: dict) -> DatasetConfig:
    """A data set of a Parquet file for each of some tables."""
    for number, more in enumerate(columns):
        table = pyarrow.table({"problem": ["2+2?"], "solution": ["4"]} | more)
        parquet.write_table(table, folder / f"part-{number}.parquet")
    return dataset_of(folder / "part-*.parquet")


def test_parts_of_other_types_are_one_table_where_one_type_holds_both(tmp_path):
    large = pyarrow.array(["3+3?"], pyarrow.large_string())
    dataset = parts(tmp_path, {"level": [1]}, {"problem": large, "level": [1.5]}, {"level": [None]})
    rows = read(dataset)
    assert [row.prompt for row in rows.usable.values()] == ["2+2?", "3+3?", "2+2?"]
    place = f"{tmp_path}/part-"
    assert notes(rows, Tokeniser(ModelConfig(), dataset, families.chatml()))[1:] == [
        f"`problem` is string in {place}0.parquet and large_string in {place}1.parquet: read as large_string",
        f"`level` is int64 in {place}0.parquet and double in {place}1.parquet: read as double",
        "not read: level",
    ]


def test_parts_whose_types_have_nothing_in_common_are_named(tmp_path):
    reason = r"\(`level` is int64 in .*part-0.parquet and string in .*part-1.parquet\): give each column one type"
    with pytest.raises(ValueError, match=reason):
        read(parts(tmp_path, {"level": [1]}, {"level": ["1"]}))


def test_a_line_that_is_too_long_is_refused_before_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("losslab.data.read_files.LONGEST_LINE", 1 << 20)
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"solution": "4" * (1 << 20)}) + "\n")
    with pytest.raises(ValueError, match="long.jsonl:2: this line is longer than 1 MiB: shorten or remove the row"):
        read(dataset_of(file))


def test_templates_over_columns(tmp_path):
    row = {"i": "Sum", "x": 2, "y": None, "said": [{"content": "4"}]}
    file = write(tmp_path / "rows.jsonl", [row])

    def filled(template: str, answer: str = "{said[0][content]}"):
        return read(dataset_of(file, prompt=template, answer=answer))

    assert filled(r"{i}\n{y}").usable[1].prompt == "Sum"  # an empty column leaves no line behind
    assert filled(r"{i} {x}: {{x}} in \boxed{}, \neq 3").usable[1].prompt == r"Sum 2: {x} in \boxed{}, \neq 3"
    assert filled("{x}").usable[1].answers == ("4",)
    with pytest.raises(ValueError, match="no column 'z' but .*: mend the template '{z}'"):
        filled("{z}")
    with pytest.raises(ValueError, match="the template 'Sum 2' fills in no column: write one as in {i}"):
        filled("Sum 2")
    assert filled("Q: {y}").broken == {1: "has no text in `y`"}
    assert filled("{said}").broken == {1: "has a list in `said`"}
    assert filled("{i}", "{said[1][content]}").broken == {1: "has no `said[1][content]`"}


def test_braces_of_templates_are_doubled_and_a_field_is_any_column(tmp_path):
    row = {"answer": "4", "my input": "2+2", "a-b": "?", "问题": "二"}
    file = write(tmp_path / "rows.jsonl", [row])

    def filled(template: str) -> str:
        return read(dataset_of(file, prompt=template, answer_column="answer")).usable[1].prompt

    assert filled(r"\boxed{{{answer}}}") == r"\boxed{4}"
    assert filled(r"{{{my input}}}}} {a-b}{}") == "{2+2}} ?{}"
    assert filled("{问题}") == "二"
    for template, reason in {
        r"\boxed{answer}": r"would write \boxed without its braces: write \boxed{{{answer}}} in it",
        "{answer} {your input}": "has no column 'your input' but ['answer', 'my input', 'a-b', '问题']: mend the",
        r"\frac{1}{{2}} {answer}": "has no column '1' but",
        "{answer} {": "has a single { that is part of no column's name: write {{ for the brace itself",
        "{answer} }": "has a single } that is part of no column's name: write }} for the brace itself",
    }.items():
        with pytest.raises(ValueError, match=re.escape(reason)):
            filled(template)


def test_the_traces_of_openr1_are_read_without_their_system_prompt(tmp_path):
    about = yaml.safe_load((CONF / "dataset/openr1_math.yaml").read_text())
    row = {"prompt": [formats.BRIEF, formats.ASK], "target": [formats.SAY], "other": 1}
    dataset = DatasetConfig(path=write(tmp_path / "rows.jsonl", [row]), prompt=about["prompt"], answer=about["answer"])
    assert (read(dataset).usable[1].prompt, read(dataset).usable[1].answers) == ("2+2?", ("4",))
    assert list(asked(dataset)) == [("2+2?", "4")]
