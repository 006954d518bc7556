"""One form for the messages of a conversation, whichever layout they come in.

A message is what a chat template takes: `role` (system, user, assistant, tool, ...), `content` as a text or, with
images, as a list of parts (`losslab.data.images`), and what else the template may read: `tool_calls`,
`reasoning_content`, `name`. Read are

- OpenAI's messages: `role`, which may be one of ShareGPT's names, too, and `content`, which may be a list of parts,
  texts and images; `tool_calls` whose arguments are a JSON text become objects, as templates expect; `weight: 0` keeps
  an assistant turn from being trained, and any weight but 0 and 1 is refused;
- ShareGPT's: `from` (human, gpt, system, function_call, observation) and `value`;
- either of them as a JSON text, as in a column of a CSV file.
"""

import json
import re
from typing import Any

Message = dict[str, Any]

ROLES = {  # of ShareGPT
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant", "system": "system", "function_call": "function_call",
    "observation": "tool", "tool": "tool", "function_response": "tool",
}  # fmt: skip
IMAGES = ("image", "image_url")  # types of parts, ours and OpenAI's
REASONING = ("reasoning_content", "reasoning", "thinking")  # the keys by which layouts and templates call it
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant): ?")  # of Anthropic's preference data, in one text


class Unusable(Exception):
    """Why a row cannot be trained on, to follow on its place: `rows.jsonl:3 has no text in answer`."""


def looks_like_messages(value: Any) -> bool:
    """Whether a value of a column is a conversation, possibly as a JSON text."""
    value = from_json(value)
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def from_json(value: Any) -> Any:
    """A conversation that is written as a JSON text; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if isinstance(parsed, list) and parsed and all(map(_is_message, parsed)):
            return parsed
    return value


def messages_of(value: Any, column: str, role: str = "") -> list[Message]:
    """The messages of a conversation in their one form; `role` is that of a text, and of a message that stands alone.

    Raises Unusable.
    """
    value = from_json(value)
    if isinstance(value, str) and role:
        return [{"role": role, "content": checked(value, column)}]
    if isinstance(value, dict) and _is_message(value):
        value = [value]
    if not isinstance(value, list) or not value:
        text = isinstance(value, str) and value.strip()
        what = "a text that is not a JSON list of messages" if text else "no messages"
        raise Unusable(f"has {what} in `{column}`")
    return [_weighed(_message(message, column, role if len(value) == 1 else ""), column) for message in value]


def transcript(text: str) -> list[Message] | None:
    """The messages of a text of the form "\\n\\nHuman: …\\n\\nAssistant: …"; None for any other text."""
    before, *parts = TRANSCRIPT.split(text)
    if before.strip() or not parts:
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[name], "content": content.strip()} for name, content in pairs]


def words(message: Message) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_trained(message: Message) -> bool:
    """Whether a message is a turn of the assistant that no weight of 0 leaves out."""
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def reasoning(message: Message) -> str:
    return next((str(message[key]) for key in REASONING if message.get(key)), "")


def checked(text: str, column: str) -> str:
    """The text, if it can be encoded; a lone surrogate cannot."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unusable(f"has half of a surrogate pair in `{column}`, which no tokenizer can read") from None
    return text


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and (
        {"from", "value"} <= set(value) or "content" in value or ("role" in value and bool(value.get("tool_calls")))
    )


def _message(value: Any, column: str, role: str) -> Message:
    if not isinstance(value, dict):
        raise Unusable(f"has a {type(value).__name__} among the messages of `{column}`")
    message = {key: item for key, item in value.items() if item is not None}  # Arrow fills in what others have
    if "from" in value and "role" not in message:
        return _of_sharegpt(message, column)
    message.setdefault("role", role)
    if not message["role"] or not isinstance(message["role"], str):
        keys = ", ".join(value)
        raise Unusable(f"has a message without a role in `{column}` (it has {keys}; role and content are read)")
    message["role"] = _role(message["role"])
    message["content"] = _content(message.get("content", ""), column)
    if message["role"] == "assistant" and not isinstance(message["content"], str):
        raise Unusable(f"has an image in a turn of the assistant in `{column}`; only text can be trained")
    calls = message.pop("tool_calls", [])
    if "function_call" in message:  # OpenAI's older form
        calls = [*calls, message.pop("function_call")]
    if calls:
        message["tool_calls"] = [_call(call, column) for call in calls]
    for key in REASONING:
        if key in message:
            message[key] = checked(str(message[key]), column)
    return message


def _role(name: str) -> str:
    """The role that a name stands for, as templates know it; one that is not known stays, as templates have others."""
    role = "tool" if name == "function" else ROLES.get(name.lower(), name)
    return name if role == "function_call" else role  # whose content is a call, and not what a message says


def _of_sharegpt(message: Message, column: str) -> Message:
    role = ROLES.get(str(message["from"]).lower())
    if role is None:
        raise Unusable(f"has a message from {message['from']!r} in `{column}`, which is none of {', '.join(ROLES)}")
    text = _content(message.get("value", ""), column)
    if not isinstance(text, str):
        raise Unusable(f"has content in parts under `value` in `{column}`; of ShareGPT's a text with <image> is read")
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    if role != "function_call":
        return rest | {"role": role, "content": text}
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        raise Unusable(f"has a function_call in `{column}` that is not JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    return rest | {"role": "assistant", "content": "", "tool_calls": [_call(call, column) for call in calls]}


def _weighed(message: Message, column: str) -> Message:
    """A message whose weight, where it has one, is the number 0 or 1; it may be written as a text."""
    if "weight" not in message:
        return message
    try:
        weight = float(message["weight"])
    except (TypeError, ValueError):
        weight = -1.0
    if weight not in (0, 1):
        raise Unusable(f"has a message of weight {message['weight']!r} in `{column}`; only 0 and 1 are read")
    return message | {"weight": int(weight)}


def _content(value: Any, column: str) -> str | list[dict[str, Any]]:
    """The content of a message: its text, that of text parts one after another; or its parts, where one is an image."""
    if isinstance(value, str):
        return checked(value, column)
    if isinstance(value, list):
        parts = [_part(part, column) for part in value]
        return parts if any(part["type"] == "image" for part in parts) else "".join(part["text"] for part in parts)
    raise Unusable(f"has content that is a {type(value).__name__} in `{column}`; only text and images can be read")


def _part(part: Any, column: str) -> dict[str, Any]:
    """A text part, or an image part with what stands for the image; without that it takes one of `images_column`."""
    if isinstance(part, str):
        return {"type": "text", "text": checked(part, column)}
    kind = part.get("type", "?") if isinstance(part, dict) else type(part).__name__
    if kind in IMAGES:
        value = next((part[key] for key in (*IMAGES, "url", "path", "bytes") if part.get(key) is not None), None)
        if kind == "image_url" and isinstance(value, dict):
            value = value.get("url")
        return {"type": "image"} if value is None else {"type": "image", "image": value}
    if isinstance(part, dict) and isinstance(text := part.get("text"), str):
        return {"type": "text", "text": checked(text, column)}
    raise Unusable(f"has content of type {kind} in `{column}`; only text and images can be read")


def _call(value: Any, column: str) -> Message:
    """A tool call as templates take it: {"type": "function", "function": {"name", "arguments": an object}}."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable(f"has a tool call without a function's name in `{column}`")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise Unusable(f"has a tool call in `{column}` whose arguments are not JSON") from None
    rest = {key: item for key, item in value.items() if key == "id"}
    return rest | {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
