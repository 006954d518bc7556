"""The code of a moment, so that what runs later does not follow the edits made in between."""

import shutil
from pathlib import Path

from losslab.files import ROOT, write_json
from losslab.records import changes, commit, dirty, git

LARGEST = 1 << 20  # bytes of a file that git does not know; a larger one is data
WITHOUT_GIT = ("src/**/*.py", "conf/**/*", "experiments/*", "*.py")


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
    known = git("ls-files").splitlines()
    if not known:
        return sorted(
            str(path.relative_to(ROOT))
            for pattern in WITHOUT_GIT
            for path in ROOT.glob(pattern)
            if path.is_file() or path.is_symlink()
        )
    new = git("ls-files", "--others", "--exclude-standard").splitlines()
    small = [name for name in new if (ROOT / name).is_file() and (ROOT / name).stat().st_size <= LARGEST]
    return [name for name in known if (ROOT / name).exists()] + small
