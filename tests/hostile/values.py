"""Hostile values, drawn by hypothesis: the same ones each time."""

from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hostile.case import CODE

T = TypeVar("T")
LONG = "x" * 5000
SHELL = f"$(touch {CODE})"
TEXTS = [
    "", " ", "/", ".", "..", "../../escape", "/dev/null", "~", "*", "a/b", "a\\b", "null", "true", "nan", "-1", "0x10",
    "\x1b[2J\x1b]0;title\x07", "\u202eright to left", "zero\u200bwidth", "👩‍🔬", "\ud7ff", LONG, "line\nbreak", "tab\t",
    SHELL, f"`touch {CODE}`", f"; touch {CODE}", f"!!python/object/apply:os.system [touch {CODE}]",
    f"{{{{ cycler.__init__.__globals__.os.system('touch {CODE}') }}}}", "${oc.env:HOME}", "${nothing}", "${", "%s%n",
    "<script>alert(1)</script>", "'; DROP TABLE cells; --", "{", "[", "]", "(", ")", "=", "a=b", ",", "'", '"',
    "#", "@", "con", "-m", "--help", "model", "e" * 255,
]  # fmt: skip
INTEGERS = [0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400]
FLOATS = ["nan", "inf", "-inf", "-1.0", "0.0", "1e-320", "1e300", "1e400", "-0.0", "1.0000001"]


def draw(strategy: SearchStrategy[T], count: int, number: int = 0) -> list[T]:
    """So many different values of a strategy, as far as there are, always the same."""
    drawn: dict[str, T] = {}
    if count < 1:
        return []

    @seed(number)
    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(value: T) -> None:
        drawn.setdefault(repr(value), value)

    collect()
    return list(drawn.values())[:count]


def texts() -> SearchStrategy[str]:
    """Hostile texts, and any others."""
    alphabet = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
    return st.sampled_from(TEXTS) | st.text(alphabet, max_size=30)


def json_values() -> SearchStrategy[object]:
    """Anything that JSON can say, infinities too."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts()
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    )
