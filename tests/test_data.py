"""Token masks by hand, broken rows, and the cutting of a batch."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from families import chatml, surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from losslab.config.choices import Overlong, Selection, Turns
from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
from losslab.data import toy_task
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.batches import Shard, collate, micro_batches, rewards, token_weights
from losslab.data.examples import Examples, prepare, tokenise
from losslab.data.layouts import Layout
from losslab.data.messages import Unusable
from losslab.data.row_notes import notes
from losslab.data.rows import Rows, read
from losslab.data.table import Table
from losslab.data.tokenise import Tokeniser

TOKENIZER = toy_task.tokenizer()
FILE = DatasetConfig(path="rows.jsonl")


def encode(pairs, template="{problem}>", dataset=FILE, **train) -> Examples:
    rejected = [] if dataset.rejected_column is None else [dataset.rejected_column]
    reward = [] if dataset.reward_column is None else [dataset.reward_column, dataset.success_rate_column]
    weights = dataset.weights_column
    names = ["problem", "solution", *rejected, *reward, *([weights] if weights else [])]
    table = Table(dataset.path, names, np.arange(1, len(pairs) + 1), [])
    rows = Rows(table, Layout("problem", ("solution", *rejected), rewards=tuple(reward), weights=weights), {}, {})
    for number, values in enumerate(pairs, start=1):
        try:
            rows.usable[number] = rows.layout.row(dict(zip(names, values, strict=True)))
        except Unusable as reason:
            rows.broken[number] = str(reason)
    return tokenise(rows, TrainConfig(**train), Tokeniser(ModelConfig(train_prompt=template), dataset, TOKENIZER))


def dataset_of(file, rows: int, seed: int = 0) -> DatasetConfig:
    return DatasetConfig(path=str(file), rows=rows, seed=seed)


def test_prompt_and_answer_are_joined_and_only_the_answer_counts():
    examples = encode([("1+1=?", "2"), ("3", "45")])
    assert TOKENIZER.decode(examples.tokens[:8]) == "1+1=?>2<|end|>"
    assert examples.offsets.tolist() == [0, 8, 13]
    assert examples.prompts.tolist() == [6, 2]
    assert examples.answers.tolist() == [2, 3]  # EOS is trained

    batch = collate(examples, np.array([0, 1]))
    assert TOKENIZER.decode(batch.tokens[0]) == "1+1=?>2<|end|>3>45<|end|>"
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4]]
    assert batch.packing.boundaries.tolist() == [0, 8, 13]
    assert batch.sequence.tolist() == [0, 0, 1, 1, 1]
    assert batch.predictors.tolist() == [5, 6, 9, 10, 11]  # the position before each answer token
    assert TOKENIZER.decode(batch.targets) == "2<|end|>45<|end|>"


def test_chat_template_is_the_tokenizers_own():
    examples = encode([("1+1=?", "2")], template="chat")
    assert TOKENIZER.decode(examples.tokens) == "<|user|>1+1=?<|end|><|assistant|>2<|end|>"
    assert examples.answers.tolist() == [2]


def test_empty_group_keeps_step_without_an_answer():
    batch = collate(encode([("1", "2")]), np.array([], dtype=np.int64))
    assert batch.tokens.shape == (1, 2) and len(batch.targets) == 0


def test_overlong_rows_are_dropped_and_counted():
    examples = encode([("1", "2"), ("1", "234567")], max_length=5)
    assert len(examples) == 1
    assert examples.report | {"rows": 2, "examples": 1, "overlong_dropped": 1, "truncated": 0} == examples.report


def test_truncation_keeps_the_start_and_drops_prompts_without_room():
    examples = encode([("1", "234567"), ("12345", "6")], max_length=5, overlong=Overlong.truncate)
    assert TOKENIZER.decode(examples.tokens) == "1>234"
    assert (examples.report["truncated"], examples.report["overlong_dropped"]) == (1, 1)


def test_broken_rows_are_counted_or_refused():
    pairs = [("1", "2")] * 99 + [("1", None)]
    assert encode(pairs).report["broken"] == 1
    with pytest.raises(
        ValueError, match=r"3 of 102 rows of rows.jsonl cannot be used \(row 100 of .* no text in `solution`; "
    ):
        encode([*pairs, ("", "2"), (3, "2")])
    with pytest.raises(ValueError, match="no row of rows.jsonl fits train.max_length=2"):
        encode([("1", "2")], max_length=2)


def test_broken_rows_are_named_by_their_number_in_the_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"problem": f"{i}", "solution": " " if i in (7, 41) else "a"} for i in range(1, 51)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for dataset in (
        dataset_of(file, 45, 3),
        DatasetConfig(path=str(file), rows=45, selection=Selection.first),
    ):
        with pytest.raises(
            ValueError, match=r"2 of 45 rows .*rows.jsonl:7 has no text in `solution`; so does .*rows.jsonl:41\)"
        ):
            prepare(Tokeniser(ModelConfig(), dataset, TOKENIZER), TrainConfig(), tmp_path)
    first, some = (
        {*rows.usable, *rows.broken}
        for rows in (
            read(DatasetConfig(path=str(file), rows=45, selection=Selection.first)),
            read(dataset_of(file, 45, 3)),
        )
    )
    assert 50 not in first and min(set(range(1, 51)) - some) < 41  # it left rows out


def test_pairs_stay_together_and_are_cut_together():
    dataset = DatasetConfig(path="rows.jsonl", rejected_column="wrong")
    examples = encode([("1", "2", "34"), ("5", "6", "789"), ("7", "8", "9")], dataset=dataset, max_length=5)
    assert TOKENIZER.decode(examples.tokens) == "1>2<|end|>1>34<|end|>7>8<|end|>7>9<|end|>"
    assert (examples.unit, examples.report["overlong_dropped"]) == (2, 1)
    assert examples.units.tolist() == [9, 8]
    assert examples.expand(np.array([1, 0])).tolist() == [2, 3, 0, 1]


def test_rewards_stay_with_their_answers(tmp_path):
    dataset = DatasetConfig(path="rows.jsonl", reward_column="reward")
    rows = [("1", "2", 1, 0.75), ("1", "3456789", 0, 0.75), ("2", "3", 0, 0.25)]
    examples = encode(rows, dataset=dataset, max_length=6)
    assert examples.unit == 1 and examples.report["overlong_dropped"] == 1
    (tmp_path / "data").mkdir()
    examples.save(tmp_path / "data")
    loaded = Examples.load(tmp_path / "data")
    assert loaded.rewards.tolist() == [[1, 0.75], [0, 0.25]]
    found = rewards(loaded, np.array([1, 0, 1]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "reward": [0, 1, 0], "success_rate": [0.25, 0.75, 0.25],
    }  # fmt: skip
    assert rewards(encode([("1", "2")]), np.array([0])) == {}
    with pytest.raises(ValueError, match=r"3 of 4 rows .* has no number from 0 to 1 in `reward`; so do row 3 of "):
        encode([*rows[:1], ("1", "2", None, 0.5), ("1", "2", 2, 0.5), ("1", "2", "x", 0.5)], dataset=dataset)


def test_a_success_rate_is_of_the_whole_prompt_and_of_all_its_answers(tmp_path):
    dataset = DatasetConfig(path=str(tmp_path / "rows.jsonl"), reward_column="reward")
    hi, hello = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    prompts = [[hi, hello, hi | {"content": "2+2?"}], [hi, hello, hi | {"content": "7*8?"}]]
    prompts += [[hi | {"role": "system", "content": "S1"}, hi]]
    rows = [{"prompt": prompt, "solution": "4", "reward": 1 - min(i, 1)} for i, prompt in enumerate(prompts)]
    rows += [{"prompt": "2?", "solution": answer, "reward": int(answer == "2")} for answer in ("2", "3" * 200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokeniser = Tokeniser(ModelConfig(), dataset, chatml())
    found = tokenise(read(dataset), TrainConfig(max_length=150), tokeniser)
    assert found.report["overlong_dropped"] == 1
    assert found.rewards.tolist() == [[1, 1], [0, 0], [0, 0], [1, 0.5]]


def test_weights_stay_with_their_tokens(tmp_path):
    dataset = DatasetConfig(path="rows.jsonl", weights_column="w", max_broken=0.5)
    rows = [("1", "23", [0, 0.5, 2]), ("1", "3", [1]), ("1", "3456789", [*range(8)]), ("2", "3", "[3, 4]")]
    examples = encode(rows, dataset=dataset, max_length=6, overlong=Overlong.truncate)
    assert (examples.report["broken"], examples.report["truncated"]) == (1, 1)  # one weight for an answer and its end
    (tmp_path / "data").mkdir()
    examples.save(tmp_path / "data")
    loaded = Examples.load(tmp_path / "data")
    assert loaded.weights.tolist() == [0, 0.5, 2, 0, 1, 2, 3, 3, 4]
    group = np.array([2, 0])
    assert token_weights(loaded, group)["token_weight"].tolist() == [3, 4, 0, 0.5, 2]
    assert TOKENIZER.decode(collate(loaded, group).targets) == "3<|end|>23<|end|>"
    assert token_weights(loaded, np.array([], dtype=np.int64))["token_weight"].shape == (0,)
    assert token_weights(encode([("1", "2")]), np.array([0])) == {}
    message = r"has no list of numbers from 0 in `w`; so do rows? .*"
    with pytest.raises(ValueError, match=message):
        encode([("1", "2", weights) for weights in ([1, -1], [1, "x"], 1, [True, 1], None)], dataset=dataset)
    with pytest.raises(ValueError, match="has 3 weights in `w` for 2 trained tokens"):
        encode([("1", "2", [1, 1, 1])], dataset=dataset)
    for keys in ({"rejected_column": "r"}, {"turns": Turns.each}):
        values = ("1", "2", "3", [1, 1]) if "rejected_column" in keys else ("1", "2", [1, 1])
        with pytest.raises(ValueError, match="weights"):
            encode([values], dataset=replace(dataset, **keys))


def test_prepare_keeps_tokens_and_notices_a_changed_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "1+1=?", "solution": "2"}\n{"problem": "3", "solution": "45"}\n')
    dataset = DatasetConfig(path=str(file))
    folder = prepare(Tokeniser(ModelConfig(), dataset, TOKENIZER), TrainConfig(), tmp_path)
    assert prepare(Tokeniser(ModelConfig(), dataset, TOKENIZER), TrainConfig(), tmp_path) == folder
    loaded = Examples.load(folder)
    assert len(loaded) == 2 and loaded.report["examples"] == 2
    file.write_text('{"problem": "1+1=?", "solution": "3"}\n')
    assert prepare(Tokeniser(ModelConfig(), dataset, TOKENIZER), TrainConfig(), tmp_path) != folder


def test_tokens_are_not_those_of_another_tokenizer_with_the_same_vocabulary(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"problem": "Add a a.", "solution": "aa"}\n')
    dataset, model = DatasetConfig(path=str(tmp_path / "rows.jsonl")), ModelConfig(train_prompt="{problem}>")
    lower = chatml()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    folders = [
        prepare(Tokeniser(model, dataset, tokenizer), TrainConfig(), tmp_path)
        for tokenizer in (chatml(), surrounded(chatml(), "<|endoftext|>"), lower)
    ]
    tokens = [Examples.load(folder).tokens.tolist() for folder in folders]
    assert tokens[1] == [0, *tokens[0]] and tokens[2][1:] == tokens[0][1:] and tokens[2][0] != tokens[0][0]
    again = chatml()
    again("a", truncation=True, max_length=5)  # a setting that the tokenizer keeps
    assert prepare(Tokeniser(model, dataset, again), TrainConfig(), tmp_path) == folders[0]


def test_read_selects_rows_and_names_a_missing_column(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"problem": "{i}", "solution": "a"}}\n' for i in range(50)))
    first = read(DatasetConfig(path=str(file), rows=3, selection=Selection.first)).usable
    assert {number: (row.prompt, row.answers) for number, row in first.items()} == {
        1: ("0", ("a",)), 2: ("1", ("a",)), 3: ("2", ("a",)),
    }  # fmt: skip
    some = [int(row.prompt) for row in read(dataset_of(file, 10)).usable.values()]
    assert len(set(some)) == 10 and some == sorted(some) and some != list(range(10))
    with pytest.raises(ValueError, match="has no column 'answer' but .*'problem', 'solution'"):
        read(DatasetConfig(path=str(file), answer_column="answer"))
    file.write_text('{"problem": "1", "solution": "2"}\n{"problem": "1", "solution')
    with pytest.raises(ValueError, match="rows.jsonl:2: this line is not valid JSON, correct or remove it"):
        read(DatasetConfig(path=str(file)))
    file.write_text("")
    with pytest.raises(ValueError, match="rows.jsonl has no rows: check the file"):
        read(DatasetConfig(path=str(file)))
    with pytest.raises(ValueError, match="names no file"):
        read(DatasetConfig(path=str(tmp_path / "none.jsonl")))


def test_rows_are_kept_by_what_their_columns_say(tmp_path):
    file = tmp_path / "rows.jsonl"
    kinds = ("Python code", "a poem", "python", "C++ code")
    rows = [{"problem": f"{kinds[i % 4]} {i}", "solution": "a", "source": "x" if i < 20 else "y"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keep = {"problem": r"(?i)\b(python|java)\b|c\+\+", "source": "^x$"}
    chosen = read(DatasetConfig(path=str(file), keep=keep)).usable
    assert list(chosen) == [i + 1 for i in range(20) if i % 4 != 1]  # by their numbers in the whole
    some = read(DatasetConfig(path=str(file), keep=keep, rows=5)).usable
    assert len(some) == 5 and set(some) < set(chosen)
    with pytest.raises(ValueError, match="has no column 'kind' but .*: set dataset.keep"):
        read(DatasetConfig(path=str(file), keep={"kind": "x"}))
    with pytest.raises(ValueError, match="dataset.keep keeps no row of .*: check its patterns"):
        read(DatasetConfig(path=str(file), keep={"problem": "Rust"}))


def test_a_pair_of_the_same_answers_is_not_trained():
    dataset = DatasetConfig(path="rows.jsonl", rejected_column="wrong", max_broken=0.5)
    pairs = [("1", "23", "24"), ("1", "23", "23"), ("1", "2<|end|>", "2")]  # the third is the same with its end
    examples = encode([*pairs, ("1", "234567", "234568")], dataset=dataset)
    assert (examples.report["broken"], len(examples)) == (2, 4)
    with pytest.raises(ValueError, match=r"\(row 2 of .* has the same chosen and rejected answer; so does row 3"):
        encode(pairs, dataset=replace(dataset, max_broken=0.1))
    cut = encode([pairs[0], ("1", "234567", "234568")], dataset=dataset, max_length=5, overlong=Overlong.truncate)
    assert (cut.report["truncated"], cut.report["overlong_dropped"], len(cut)) == (0, 1, 2)


def test_what_is_kept_is_counted_and_a_zero_is_something(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"problem": f"{level}?", "solution": "a", "level": level} for level in (0, False, 1, None)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for pattern, expected in {"^(0|False)$": [1, 2], "^$": [4], ".": [1, 2, 3]}.items():
        dataset = DatasetConfig(path=str(file), keep={"level": pattern})
        found = read(dataset)
        assert list(found.usable) == expected
        told = notes(found, Tokeniser(ModelConfig(), dataset, TOKENIZER))
        assert f"dataset.keep keeps {len(expected)} of 4 rows" in told


def test_the_embedded_data_set_is_one_of_two():
    rows = read(DatasetConfig(path="embedded", split="corpus", rows=2, seed=4)).usable
    made = toy_task.corpus(2, 4)
    assert {number: (row.prompt, *row.answers) for number, row in rows.items()} == {
        number: (row["problem"], row["solution"]) for number, row in enumerate(made, start=1)
    }
    with pytest.raises(ValueError, match="dataset.split=train does not exist: set it to one of corpus, demonstrations"):
        read(DatasetConfig(path="embedded", split="train", rows=2))


@pytest.mark.parametrize(
    ("split", "digest"),
    {"demonstrations": "b0dc90e03f6b520f", "corpus": "be2775f0759964c8", "traces": "bd7f5c33264bf7e3",
     "facts": "a3b78184db7aa599"}.items(),
)  # fmt: skip
def test_the_embedded_examples_are_the_same_token_for_token(split, digest, tmp_path):
    """Those of the records of the demo and of the toy suite, as the first version made them."""
    dataset = DatasetConfig(path="embedded", split=split, rows=3000, seed=1)
    examples = Examples.load(prepare(Tokeniser(ModelConfig(), dataset, TOKENIZER), TrainConfig(), tmp_path))
    arrays = (examples.tokens, examples.offsets, examples.prompts)
    assert hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16] == digest
    assert examples.trained is None


def test_schedule_sees_every_example_once_an_epoch():
    sampler = RandomBatchSampler(units=10, batch_size=4, epochs=2, seed=3)
    assert (sampler.steps_per_epoch, sampler.steps) == (3, 6)
    epochs = [np.concatenate([sampler.batch(e * 3 + i) for i in range(3)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert RandomBatchSampler(10, 4, 2, seed=3).batch(4).tolist() == sampler.batch(4).tolist()
    assert RandomBatchSampler(10, 4, 1, seed=4).batch(0).tolist() != sampler.batch(0).tolist()
    assert RandomBatchSampler(10, 4, 1, seed=3, drop_last=True).steps == 2
    assert RandomBatchSampler(10, 4, 2, seed=3, max_steps=5).steps == 5
    twice = RandomBatchSampler(10, 4, 2, seed=3, updates=2)
    assert twice.steps == 12
    assert [twice.batch(step).tolist() for step in (0, 1, 2, 7)] == [sampler.batch(i).tolist() for i in (0, 0, 1, 3)]
    assert [step for step in range(12) if twice.saves(step, every=3, asked=False)] == [3, 5, 9]
    assert twice.saves(1, 3, True) and not twice.saves(2, 3, True)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 4), st.integers(20, 200))
@settings(max_examples=200, deadline=None)
def test_micro_batches_are_a_partition_within_the_budget(lengths, ranks, budget):
    lengths = np.array(lengths)
    shares = [micro_batches(np.arange(len(lengths)), lengths, budget, Shard(rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1  # ranks move in step
    groups = [group for share in shares for group in share if len(group)]
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
    assert all(lengths[group].sum() <= budget or len(group) == 1 for group in groups)


def test_real_rows_are_packed_without_padding_and_shared_evenly(shared):
    """All 4,500 rows in batches of 256 over 8 ranks, with words and signs as tokens.

    No row of tokens holds padding; what a rank waits for the one with most tokens, since they move in step, is 0.5%.
    """
    rows = [json.loads(line) for line in (shared / "data/train/math_4500.jsonl").read_text().splitlines()]
    texts = [(row["problem"], row["solution"]) for row in rows]
    words = np.array([[len(re.findall(r"\w+|[^\w\s]", text)) for text in pair] for pair in texts]) + 1
    lengths = words.sum(1)
    tokens = np.zeros(lengths.sum(), dtype=np.int32)
    examples = Examples(tokens, np.r_[0, lengths.cumsum()], words[:, 0], "", {})
    sampler, held, waited = RandomBatchSampler(len(rows), 256, epochs=1, seed=0), 0, 0
    for step in range(sampler.steps):
        shares = [micro_batches(sampler.batch(step), lengths, 4096, Shard(rank, 8)) for rank in range(8)]
        sizes = np.array([[collate(examples, group).tokens.numel() for group in share] for share in shares])
        held, waited = held + sizes.sum(), waited + (sizes.max(0) - sizes).sum()
    assert len(rows) == 4500 and held == lengths.sum()
    assert waited < 0.01 * held
