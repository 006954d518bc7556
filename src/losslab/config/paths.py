"""Where the repository keeps its configuration files, and what may name a folder of results."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of the repository
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"


def names_folder(name: str) -> bool:
    """Whether a name, as of a sweep, is that of a folder below another one: no `..`, no absolute path, no pattern."""
    parts = name.split("/")
    return all(part and part[0] not in ". " and part.isprintable() and not set(part) & set("*?[\\") for part in parts)
