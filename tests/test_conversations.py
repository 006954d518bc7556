"""What is trained of a conversation, token by token, for chat templates in the manner of known families."""

import json
import shutil
from pathlib import Path

import families
import numpy as np
import pytest
import trl

from losslab.config.choices import AnswerEnd, Overlong, Turns
from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
from losslab.data.batches import collate
from losslab.data.chat_templates import ChatTemplate
from losslab.data.examples import Examples, prepare
from losslab.data.tokenise import Tokeniser
from losslab.models.loading import load_tokenizer

SYSTEM, FIRST, ONE, SECOND, TWO = (
    {"role": role, "content": content}
    for role, content in zip(
        ("system", "user", "assistant", "user", "assistant"), ("Be brief.", "2+2?", "4", "and 3+3?", "6"), strict=True
    )
)


def examples(rows, tokenizer, folder: Path, train: TrainConfig | None = None, model: ModelConfig | None = None, **keys):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = DatasetConfig(path=str(file), **{"max_broken": 0.0} | keys)
    tokeniser = Tokeniser(model or ModelConfig(), dataset, tokenizer)
    return Examples.load(prepare(tokeniser, train or TrainConfig(), folder))


def shown(found: Examples, tokenizer, i: int = 0) -> str:
    """An example with its trained tokens in ‹›."""
    ids, trained = found.tokens[found.offsets[i] : found.offsets[i + 1]], found.is_trained(i)
    borders = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    parts = [(tokenizer.decode(ids[a:b]), trained[a]) for a, b in zip(borders, borders[1:], strict=False)]
    return "".join(f"‹{text}›" if is_trained else text for text, is_trained in parts)


CONVERSATION = {"messages": [FIRST, ONE, SECOND, TWO]}
MULTI = {
    "chatml": (
        families.chatml,
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n‹4<|im_end|>›\n"
        "<|im_start|>user\nand 3+3?<|im_end|>\n<|im_start|>assistant\n‹6<|im_end|>›",
    ),
    "chatml whose EOS is another token": (
        lambda: families.chatml(eos="<|endoftext|>"),
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n‹4<|im_end|>›\n"
        "<|im_start|>user\nand 3+3?<|im_end|>\n<|im_start|>assistant\n‹6<|im_end|>›",
    ),
    "marked": (
        lambda: families.chatml(families.MARKED, eos="<|endoftext|>"),
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n‹4<|im_end|>›\n"
        "<|im_start|>user\nand 3+3?<|im_end|>\n<|im_start|>assistant\n‹6<|im_end|>›",
    ),
    "llama": (
        families.llama,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n‹4<|eot_id|>›"
        "<|start_header_id|>user<|end_header_id|>\n\nand 3+3?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n‹6<|eot_id|>›",
    ),
    "gemma": (
        families.gemma,
        "<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n‹4<end_of_turn>›\n"
        "<start_of_turn>user\nand 3+3?<end_of_turn>\n<start_of_turn>model\n‹6<end_of_turn>›",
    ),
    "plain": (
        lambda: families.bytes_level(families.PLAIN, ["<|endoftext|>"], eos_token="<|endoftext|>"),
        "Q: 2+2?\nA: ‹4\n›Q: and 3+3?\nA: ‹6\n<|endoftext|>›",
    ),
}


@pytest.mark.parametrize("name", MULTI)
def test_every_turn_of_the_assistant_is_trained_up_to_its_end(name, tmp_path):
    make, expected = MULTI[name]
    tokenizer = make()
    found = examples([CONVERSATION], tokenizer, tmp_path)
    assert shown(found, tokenizer) == expected
    trained = expected.count("‹")
    assert len(found) == 1 and found.answers.tolist() == [found.trained.sum()] and trained == 2
    whole = tokenizer.apply_chat_template(CONVERSATION["messages"], return_dict=False)
    same = len(found.tokens) - (name == "plain")  # it has EOS behind
    assert found.tokens[:same].tolist() == whole[:same]  # the library's own tokens, as far as something is trained
    assert found.tokens[: found.prompts[0]].tolist() == tokenizer.apply_chat_template(
        [FIRST], add_generation_prompt=True, return_dict=False
    )


def test_a_blank_before_the_answer_is_the_answers(tmp_path):
    tokenizer = families.mistral()
    found = examples([CONVERSATION], tokenizer, tmp_path)
    pieces = tokenizer.convert_ids_to_tokens(found.tokens)
    trained = [piece for piece, is_trained in zip(pieces, found.is_trained(0), strict=True) if is_trained]
    assert trained == ["▁4", "</s>", "▁", "6", "</s>"] and pieces.count("<s>") == 1
    assert found.tokens.tolist() == tokenizer.apply_chat_template(CONVERSATION["messages"], return_dict=False)


def test_a_batch_has_what_predicts_each_trained_token(tmp_path):
    tokenizer = families.chatml()
    found = examples([CONVERSATION, {"messages": [FIRST, TWO]}], tokenizer, tmp_path)
    batch = collate(found, np.array([1, 0]))
    assert tokenizer.decode(batch.targets) == "6<|im_end|>4<|im_end|>6<|im_end|>"
    assert batch.sequence.tolist() == [0, 0, 1, 1, 1, 1]  # a row is one sequence, however many turns it has
    row = batch.tokens[0]
    assert row[batch.predictors + 1].tolist() == batch.targets.tolist()
    assert tokenizer.decode(row[batch.predictors]) == "\n6\n4\n6"
    assert found.targets(np.array([0, 1])).tolist() == [*batch.targets[2:], *batch.targets[:2]]


def test_names_of_sharegpt_are_the_roles_they_stand_for(tmp_path):
    tokenizer = families.chatml()
    expected = shown(examples([{"messages": [SYSTEM, FIRST, ONE, SECOND, TWO]}], tokenizer, tmp_path), tokenizer)
    assert expected.count("‹") == 2
    for asks, answers in (("human", "gpt"), ("Human", "model"), ("User", "Assistant"), ("user", "bot")):
        roles = ("System", asks, answers, asks, answers)
        messages = [m | {"role": role} for m, role in zip((SYSTEM, FIRST, ONE, SECOND, TWO), roles, strict=True)]
        assert shown(examples([{"messages": messages}], tokenizer, tmp_path), tokenizer) == expected
    others = [SYSTEM | {"role": "developer"}, FIRST, ONE, SECOND | {"role": "ipython"}, TWO]
    found = shown(examples([{"messages": others}], tokenizer, tmp_path), tokenizer)
    assert found == expected.replace("system\n", "developer\n").replace("user\nand", "ipython\nand")


def test_the_last_turn_alone_or_each_in_an_example(tmp_path):
    tokenizer = families.chatml()
    last = examples([CONVERSATION], tokenizer, tmp_path, turns=Turns.last)
    start = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    rest = "4<|im_end|>\n<|im_start|>user\nand 3+3?<|im_end|>\n<|im_start|>assistant\n‹6<|im_end|>›"
    assert shown(last, tokenizer) == start + rest and last.trained is None  # one part at the end needs no mask
    each = examples([CONVERSATION], tokenizer, tmp_path, turns=Turns.each)
    assert [shown(each, tokenizer, i) for i in range(2)] == [start + "‹4<|im_end|>›", start + rest]
    assert (each.report["rows"], each.report["examples"]) == (1, 2)


def test_a_template_that_takes_out_earlier_reasoning_is_refused_or_trains_each_turn_by_itself(tmp_path):
    tokenizer = families.chatml(families.REASONING)
    thought = [FIRST, ONE | {"reasoning_content": "easy"}, SECOND, TWO | {"reasoning_content": "too"}]
    reason = r"rows.jsonl:2: the chat template does not keep .* \(it writes turn 1 anew once others follow\): set "
    with pytest.raises(ValueError, match=reason + "dataset.turns=each"):
        examples([{"messages": thought[:2]}, {"messages": thought}], tokenizer, tmp_path)
    each = examples([{"messages": thought}], tokenizer, tmp_path, turns=Turns.each)
    assert [shown(each, tokenizer, i) for i in range(2)] == [
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n‹<think>\neasy\n</think>\n\n4<|im_end|>›",
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\nand 3+3?<|im_end|>\n<|im_start|>assistant\n‹<think>\ntoo\n</think>\n\n6<|im_end|>›",
    ]
    last = examples([{"messages": thought}], tokenizer, tmp_path, turns=Turns.last)
    assert shown(last, tokenizer) == shown(each, tokenizer, 1)
    named = examples([{"messages": [FIRST, ONE | {"thinking": "hm"}]}], tokenizer, tmp_path)
    assert "<think>\nhm\n</think>" in shown(named, tokenizer)  # under the name that the template reads


def test_what_a_template_leaves_out_is_not_lost_in_silence(tmp_path):
    with pytest.raises(ValueError, match="rows.jsonl:1 has reasoning that the chat template leaves out"):
        examples([{"messages": [FIRST, ONE | {"reasoning": "because"}]}], families.chatml(), tmp_path)
    ignoring = families.CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'developer' %}")
    developer = {"role": "developer", "content": "Be brief."}
    with pytest.raises(ValueError, match="has a developer's message that the chat template leaves out"):
        examples([{"messages": [developer, FIRST, ONE]}], families.chatml(ignoring), tmp_path)
    with pytest.raises(ValueError, match="not taken by the chat template .*Conversation roles must alternate"):
        examples([{"messages": [SYSTEM, FIRST, ONE]}], families.gemma(), tmp_path)
    with pytest.raises(ValueError, match="Only user and assistant roles are supported!"):
        examples([{"messages": [SYSTEM, FIRST, ONE]}], families.mistral(), tmp_path)


def called(arguments: dict, result: str = "4") -> list[dict]:
    """A question, a call of `add`, its result and an answer."""
    call = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "add", "arguments": json.dumps(arguments)}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "name": "add", "tool_call_id": "a1b2c3d4e", "content": result}
    return [FIRST, answer, result, ONE]


def template_of(*parts: str) -> str:
    """A template that writes some of the parts tools, name, arguments and result."""
    call = "{{ call.function.name }} " * ("name" in parts) + "{{ call.function.arguments }}" * ("arguments" in parts)
    return (
        ("{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}" if "tools" in parts else "")
        + "{% for m in messages %}"
        + ("" if "result" in parts else "{% if m.role != 'tool' %}")
        + "<|im_start|>{{ m.role }}\n{{ m.content }}"
        + f"{{% for call in m.tool_calls or [] %}}[{call}]{{% endfor %}}<|im_end|>\n"
        + ("" if "result" in parts else "{% endif %}")
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


WHOLE = ("tools", "name", "arguments", "result")
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        ("name", "has a call of a tool that the chat template leaves out"),
        ("arguments", "has arguments of a call that the chat template leaves out"),
        ("result", "has a tool's message that the chat template leaves out"),
        ("tools", "has tools that the chat template leaves out"),
    ],
)
def test_no_part_of_a_use_of_tools_is_lost_in_silence(left_out, reason, tmp_path):
    tokenizer = families.chatml(template_of(*(part for part in WHOLE if part != left_out)))
    for number in (4, 12345):  # 4 is the answer, too
        rows = [{"messages": called({"a": number}, str(number)), "tools": TOOLS}]
        with pytest.raises(ValueError, match=f"rows.jsonl:1 {reason}"):
            examples(rows, tokenizer, tmp_path)
        with pytest.raises(ValueError, match=f"rows.jsonl:1 {reason}"):
            examples(rows, tokenizer, tmp_path, turns=Turns.last)  # where the call is not trained
        assert len(examples(rows, families.chatml(template_of(*WHOLE)), tmp_path)) == 1


CALLS = (
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }}{{ call.function.arguments | tojson }}]</tool_call>"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("written", "trained", "end"),
    [  # where marks leave out the ends of turns; and where they hold them, and a call has one of its own
        (
            "{% generation %}{{ m.content }}CALLS{% endgeneration %}<|im_end|>\n",
            '[add{"a": 2}]</tool_call><|im_end|>',
            "<|im_end|>",
        ),
        (
            "{% generation %}{{ m.content }}CALLS{% if not m.tool_calls %}<|im_end|>{% endif %}{% endgeneration %}\n",
            '[add{"a": 2}]</tool_call>',
            "</tool_call>",
        ),
    ],
)
def test_a_turn_that_ends_in_a_call_is_trained_up_to_its_end(written, trained, end, tmp_path):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + written.replace("CALLS", CALLS)
        + "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</tool_call>"]
    tokenizer = families.bytes_level(template, special, eos_token="<|endoftext|>")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    asked = [FIRST, {"role": "assistant", "content": "", "tool_calls": [call]}]
    found = examples([{"messages": asked}], tokenizer, tmp_path)
    assert shown(found, tokenizer).endswith(f"assistant\n‹{trained}›")
    assert found.ends == [tokenizer.convert_tokens_to_ids(end)]
    found = examples([{"messages": [*asked, SECOND, TWO]}], tokenizer, tmp_path)
    assert f"assistant\n‹{trained}›" in shown(found, tokenizer)
    assert shown(found, tokenizer).endswith("assistant\n‹6<|im_end|>›")


def test_tools_that_the_system_prompt_names_are_not_left_out(tmp_path):
    tokenizer = families.chatml(template_of("name", "arguments", "result"))
    briefed = [SYSTEM | {"content": "You can add."}, *called({"a": 2})]
    assert len(examples([{"messages": briefed, "tools": TOOLS}], tokenizer, tmp_path)) == 1


REAL = ["qwen2_5", "qwen3", "llama3_1", "gptoss", "glm4moe", "gemma4", "lfm2_v2"]


@pytest.mark.parametrize("name", REAL)
def test_templates_of_known_models_leave_nothing_out(name, tmp_path):
    """Each spells values in its own way: JSON, Python, XML."""
    file = Path(trl.__file__).parent / f"chat_templates/{name}.jinja"
    if not file.exists():
        pytest.skip("this version of TRL does not have it")
    arguments = {"a": 2.5, "text": 'It\'s "ü"\n\tx', "deep": {"b": [True, None, "<a>"]}, "none": None}
    messages = called(arguments, '{"sum": "4\\n", "at": "C:\\\\x"}\n')
    parameters = {"type": "object", "properties": {"a": {"type": "number", "description": "one"}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": parameters}}]
    rows = [{"messages": messages, "tools": tools}]
    tokenizer = families.chatml(file.read_text())
    assert examples(rows, tokenizer, tmp_path, turns=Turns.last).report["broken"] == 0


def test_system_prompts_tools_and_arguments_reach_the_template(tmp_path):
    tokenizer = families.chatml(eos="<|endoftext|>")
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": null}'}}
    asked = [SYSTEM, FIRST, {"role": "assistant", "content": None, "tool_calls": [call]}]
    answered = [*asked, {"role": "tool", "content": "4", "tool_call_id": "1"}, ONE]
    found = examples([{"messages": answered, "tools": json.dumps([{"name": "add"}])}], tokenizer, tmp_path)
    assert shown(found, tokenizer) == (
        "<|im_start|>system\nadd;<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n"
        '<|im_start|>assistant\n‹[add {"a": 2, "b": null}]<|im_end|>›\n<|im_start|>tool\n4<|im_end|>\n'
        "<|im_start|>assistant\n‹4<|im_end|>›"
    )
    rows = [
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}
    ]
    found = examples(rows, tokenizer, tmp_path)
    assert shown(found, tokenizer).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n2+2?")
    assert found.notes == [
        "conversations of 1 turn in `conversations`, 100% with a system prompt; trained: every turn of the assistant"
    ]

    thinking = ModelConfig(template_arguments={"enable_thinking": False})
    rows = [{"problem": "2+2?", "solution": "4"}]
    found = examples(rows, tokenizer, tmp_path, model=thinking)
    assert shown(found, tokenizer).endswith("assistant\n<think>\n\n</think>\n\n‹4<|endoftext|>›")
    with pytest.raises(
        ValueError, match="with '<think>.*' where the turn then has '4<|im_end|>.*set model.template_arg"
    ):
        examples([{"messages": [FIRST, ONE]}], tokenizer, tmp_path, model=thinking, turns=Turns.last)
    own = [{"messages": [FIRST, ONE], "chat_template_kwargs": {"enable_thinking": False}}]
    with pytest.raises(ValueError, match="asks for turn 1 with '<think>"):
        examples(own, tokenizer, tmp_path)


def test_the_end_of_an_answer_is_trained_once(tmp_path):
    tokenizer = families.chatml(eos="<|endoftext|>")
    texts = [{"problem": "2+2?", "solution": end} for end in ("4", "4<|endoftext|>", "4<|im_end|>\n", "4 ")]
    found = examples(texts, tokenizer, tmp_path)
    answers = [shown(found, tokenizer, i).split("assistant\n")[1] for i in range(4)]
    assert answers == ["‹4<|endoftext|>›"] * 3 + ["‹4 <|endoftext|>›"]
    assert found.notes[-1].startswith("answers end in <|endoftext|>, the tokenizer's EOS, and not in <|im_end|>")
    found = examples(texts, tokenizer, tmp_path, answer_end=AnswerEnd.turn)
    assert [shown(found, tokenizer, i).split("assistant\n")[1] for i in range(2)] == ["‹4<|im_end|>›"] * 2
    assert len(found.notes) == 1
    found = examples([{"messages": [FIRST, ONE | {"content": "4<|im_end|>"}]}], tokenizer, tmp_path)
    assert shown(found, tokenizer).endswith("assistant\n‹4<|im_end|>›")
    with pytest.raises(ValueError, match="dataset.answer_end=turn needs a chat template that ends a turn with a token"):
        examples(texts, tokenizer, tmp_path, model=ModelConfig(train_prompt="{problem}"), answer_end=AnswerEnd.turn)


def test_no_eos_stands_between_prompt_and_answer(tmp_path):
    tokenizer = families.surrounded(families.chatml(), "<|endoftext|>", "<|im_end|>")  # as where add_eos_token is set
    found = examples(
        [{"problem": "2+2=", "solution": "4"}], tokenizer, tmp_path, model=ModelConfig(train_prompt="{problem}")
    )
    assert shown(found, tokenizer) == "<|endoftext|>2+2=‹4<|im_end|>›"


def test_a_typed_line_break_is_one(tmp_path):
    tokenizer = families.chatml()
    model = ModelConfig(train_prompt=r"Q: {problem}\nA, \boxed{} where x\neq y:\n")
    found = examples([{"problem": "2+2?", "solution": "4"}], tokenizer, tmp_path, model=model)
    assert shown(found, tokenizer) == "Q: 2+2?\nA, \\boxed{} where x\\neq y:\n‹4<|im_end|>›"


def test_a_token_across_the_border_of_an_answer_is_taken_apart(tmp_path):
    """Where a line break of the prompt and that of the answer have a token together, the second is trained alone."""
    tokenizer = families.chatml(merges=[("Ċ", "Ċ")])
    answer = {"role": "assistant", "content": "\nfour\n\nor 4"}
    found = examples([{"messages": [FIRST, answer, SECOND, TWO]}], tokenizer, tmp_path)
    tokens = tokenizer.convert_ids_to_tokens(found.tokens)
    trained = found.is_trained(0)
    assert "".join(t for t, own in zip(tokens, trained, strict=True) if own) == "ĊfourĊĊorĠ4<|im_end|>6<|im_end|>"
    assert tokens.count("ĊĊ") == 1 and tokens[found.prompts[0] - 1] == tokens[found.prompts[0]] == "Ċ"


def test_weights_of_openai_keep_a_turn_from_being_trained(tmp_path):
    tokenizer = families.chatml(families.MARKED)
    for template in (families.MARKED, families.CHATML):
        tokenizer.chat_template = template
        found = examples([{"messages": [FIRST, ONE | {"weight": 0}, SECOND, TWO]}], tokenizer, tmp_path)
        assert shown(found, tokenizer).count("‹") == 1 and shown(found, tokenizer).endswith("‹6<|im_end|>›")


def test_weights_are_0_or_1_whatever_the_prompt_is(tmp_path):
    tokenizer = families.chatml()
    for weight in (0, "0", 0.0, False):
        rows = [{"messages": [FIRST, ONE | {"weight": weight}, SECOND, TWO | {"weight": "1"}]}]
        assert shown(examples(rows, tokenizer, tmp_path), tokenizer).endswith("‹6<|im_end|>›")
        assert shown(examples(rows, tokenizer, tmp_path), tokenizer).count("‹") == 1
        for model in (ModelConfig(), ModelConfig(train_prompt="Q: {problem} A: ")):
            with pytest.raises(ValueError, match="rows.jsonl:1 has no turn of the assistant whose weight is not 0"):
                examples([{"messages": [FIRST, ONE | {"weight": weight}]}], tokenizer, tmp_path, model=model)
    for weight in (0.5, "all", [0]):
        rows = [
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4", "weight": weight}]}
        ]
        with pytest.raises(ValueError, match=r"has a message of weight .* in `conversations`; only 0 and 1 are read"):
            examples(rows, tokenizer, tmp_path)


def test_arguments_of_a_row_reach_the_prompt_of_its_question(tmp_path):
    tokenizer = families.chatml(eos="<|endoftext|>")
    rows = [{"prompt": "2+2?", "completion": "4", "chat_template_kwargs": {"enable_thinking": off}} for off in (0, 1)]
    found = examples(rows, tokenizer, tmp_path)
    assert [shown(found, tokenizer, i).split("assistant\n")[1] for i in range(2)] == [
        "<think>\n\n</think>\n\n‹4<|endoftext|>›",
        "‹4<|endoftext|>›",
    ]
    assert not any(note.startswith("arguments") for note in found.notes)
    text = ModelConfig(train_prompt="Q: {problem} A: ")
    for row in (rows[0], {"messages": [FIRST, ONE], "chat_template_kwargs": {"enable_thinking": True}}):
        with pytest.raises(ValueError, match="rows.jsonl:1 .* chat_template_kwargs, which .* model.train_prompt=chat"):
            examples([row], tokenizer, tmp_path, model=text)
    unknown = [{"prompt": "2+2?", "completion": "4", "chat_template_kwargs": {"enable_thinkin": False, "tools": []}}]
    with pytest.raises(ValueError, match="a question is not taken by the chat template .*tools"):
        examples(unknown, tokenizer, tmp_path)
    del unknown[0]["chat_template_kwargs"]["tools"]
    own = ModelConfig(template_arguments={"depth": 2})
    assert examples(unknown, tokenizer, tmp_path, model=own).notes[-1] == (
        "arguments that the chat template does not read: depth, enable_thinkin"
    )


def test_a_system_prompt_is_a_text_or_the_row_unusable(tmp_path):
    for system, kind in ((["Be brief."], "list"), (SYSTEM, "dict"), (0, "int")):
        for row in ({"prompt": "2+2?", "completion": "4"}, {"messages": [FIRST, ONE]}):
            with pytest.raises(ValueError, match=f"rows.jsonl:1 has a {kind}, and no text, in `system`"):
                examples([row | {"system": system}], families.chatml(), tmp_path)
    none = [{"prompt": "2+2?", "completion": "4", "system": system} for system in (None, " ")]
    assert len(examples(none, families.chatml(), tmp_path)) == 2


def test_two_ends_of_answers_are_counted(tmp_path):
    tokenizer = families.chatml(eos="<|endoftext|>")
    rows = [{"problem": "2+2?", "solution": "4", "system": system} for system in ("Be brief.", None, None)]
    found = examples(rows, tokenizer, tmp_path)
    assert [shown(found, tokenizer, i).split("assistant\n")[1] for i in (0, 1)] == ["‹4<|im_end|>›", "‹4<|endoftext|>›"]
    assert found.notes[-1] == (
        "answers end in two tokens: those of 2 rows of texts in <|endoftext|>, the tokenizer's EOS, and those of 1 "
        "conversations, as rows with a system prompt or tools are, in <|im_end|>, the end of a turn in the chat "
        "template: dataset.answer_end=turn trains that in all"
    )
    found = examples(rows, tokenizer, tmp_path, answer_end=AnswerEnd.turn)
    assert [shown(found, tokenizer, i).split("assistant\n")[1] for i in range(3)] == ["‹4<|im_end|>›"] * 3
    assert not any("answers end in" in note for note in found.notes)


def test_a_prompt_that_is_no_chat_holds_one_question_and_its_answer(tmp_path):
    tokenizer, model = families.chatml(), ModelConfig(train_prompt="Q: {problem} A: ")
    found = examples([{"messages": [FIRST, ONE]}], tokenizer, tmp_path, model=model)
    assert shown(found, tokenizer) == "Q: 2+2? A: ‹4<|im_end|>›"
    for messages in ([FIRST, ONE, SECOND, TWO], [SYSTEM, FIRST, ONE]):
        with pytest.raises(
            ValueError, match="rows.jsonl:1 is a conversation of several turns, .* model.train_prompt=chat"
        ):
            examples([{"messages": messages}], tokenizer, tmp_path, model=model)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        tokenizer.chat_template = None
        examples([{"messages": [FIRST, ONE]}], tokenizer, tmp_path)


def test_long_conversations_are_dropped_or_cut(tmp_path):
    tokenizer = families.chatml()
    whole = examples([CONVERSATION], tokenizer, tmp_path)
    short = TrainConfig(max_length=len(whole.tokens) - 1, overlong=Overlong.truncate)
    cut = examples([CONVERSATION], tokenizer, tmp_path, short)
    assert cut.tokens.tolist() == whole.tokens[:-1].tolist() and cut.answers.tolist() == [3]
    first = TrainConfig(max_length=int(whole.prompts[0]) + 1, overlong=Overlong.truncate)
    cut = examples([CONVERSATION], tokenizer, tmp_path, first)
    assert cut.answers.tolist() == [1] and cut.trained is None
    with pytest.raises(ValueError, match="no row of .* fits train.max_length=10"):
        examples([CONVERSATION], tokenizer, tmp_path, TrainConfig(max_length=10))


def test_arguments_that_the_template_does_not_read_are_named(tmp_path, checkpoint, capsys):
    arguments = {"enable_thinking": False, "enable_thinkin": True}
    said = "the chat template does not read enable_thinkin of model.template_arguments: check the name"
    assert ChatTemplate(families.chatml(), arguments).unread == said
    assert ChatTemplate(families.chatml(), {"enable_thinking": False}).unread is None
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    template = "{% for m in messages %}{{ m.content if enable_thinking else m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    for _ in range(2):
        load_tokenizer(ModelConfig(path=str(folder), template_arguments=arguments))
    assert capsys.readouterr().err.count(f"{folder}: {said}") == 1  # once for a process, which loads it several times
