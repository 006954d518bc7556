"""Which code this is, and a copy of it, so that what runs later does not follow the edits made in between."""

import shutil
import subprocess
from pathlib import Path

from losslab.config.paths import ROOT
from losslab.files import read_json, write_json

SNAPSHOT = ROOT / "snapshot.json"  # beside code that `take` copied
LARGEST = 1 << 20  # bytes of a file that git does not know; a larger one is data
WITHOUT_GIT = ("src/**/*.py", "conf/**/*", "experiments/**/*", "*.py")


def take(folder: Path) -> Path:
    """Copy the project to `folder`, with uncommitted changes and new files, and write down which code it is."""
    for name in files():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    write_json(folder / "snapshot.json", {"commit": commit(), "dirty": dirty(), "changes": changes()})
    return folder


def files() -> list[str]:
    """Paths under the project's root that belong to its code."""
    known = listed()
    if not known:
        return sorted(
            str(path.relative_to(ROOT))
            for pattern in WITHOUT_GIT
            for path in ROOT.glob(pattern)
            if path.is_file() or path.is_symlink()
        )
    return [name for name in known if (ROOT / name).exists()] + unknown(LARGEST)


def commit() -> str | None:
    """The commit of this code, or of the code that this is a snapshot of."""
    return read_json(SNAPSHOT)["commit"] if SNAPSHOT.exists() else git("rev-parse", "HEAD").strip() or None


def dirty() -> bool:
    return read_json(SNAPSHOT)["dirty"] if SNAPSHOT.exists() else bool(git("status", "--porcelain").strip())


def changes() -> str:
    """What the working tree has beyond its commit, files that git does not know yet included."""
    if SNAPSHOT.exists():
        return read_json(SNAPSHOT)["changes"]
    new = unknown(LARGEST >> 2)[:50]
    return git("diff", "HEAD") + "".join(git("diff", "--no-index", "/dev/null", file) for file in new)


def unknown(largest: int) -> list[str]:
    """Files that git does not know yet and does not ignore, of so many bytes at most; no links that lead nowhere."""
    new = listed("--others", "--exclude-standard")
    return [name for name in new if (ROOT / name).is_file() and (ROOT / name).stat().st_size <= largest]


def listed(*options: str) -> list[str]:
    return [name for name in git("ls-files", "-z", *options).split("\0") if name]


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode in (0, 1) else ""  # 1 of diff means that there is one
