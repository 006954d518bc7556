"""A page is one file: it opens without a server, and makes no network requests."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(
    template: str, style: Sequence[str], script: Sequence[str], package: str = "losslab.pages", **values: Any
) -> str:
    """A template filled in. Its style and script are files, as PACKAGE/NAME, one after another."""
    sheets = "\n".join(map(_file, style)), "\n".join(map(_file, script))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in dict.fromkeys((package, "losslab.pages"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= values.pop("filters", {})
    return environment.get_template(template).render(
        policy=_policy(*sheets), style=Markup(sheets[0]), script=Markup(sheets[1]), **values
    )


def embed(value: Any) -> Markup:
    """JSON, escaped so that it cannot close its script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _file(name: str) -> str:
    package, _, file = name.partition("/")
    return (files(f"losslab.{package}") / file).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: apply this style and run this script, and nothing else.

    Whatever a model wrote, it cannot run or fetch anything, even if it were not escaped.
    """
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    sources = [f"{kind} 'sha256-{digest}'" for kind, digest in zip(("style-src", "script-src"), hashes, strict=True)]
    return "; ".join(["default-src 'none'", *sources, "img-src data:", "base-uri 'none'", "form-action 'none'"])
