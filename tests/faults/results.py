"""What the faults have done, kept in `results/`, and the table of docs/resume.md, which is made from it.

    python -m tests.faults.results

writes the table into the page.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.page import with_part
from tests.conftest import PROJECT

FOLDER = Path(__file__).parent / "results"
PAGE = PROJECT / "docs" / "resume.md"


def tell(name: str, found: dict[str, Any]) -> int:
    """Print what was found as a line of JSON, keep it, and return the exit code: 1 if anything was wrong."""
    print(json.dumps(found))
    keep(name, " ".join(["python", "-m", f"tests.faults.{name}", *sys.argv[1:]]), found)
    return 1 if found["wrong"] else 0


def keep(name: str, command: str, found: dict[str, Any]) -> None:
    """Keep what a command has found: `rows`, each with `what`, how many `times`, and what was `wrong`."""
    FOLDER.mkdir(exist_ok=True)
    kept = {"command": command, "date": date.today().isoformat(), "found": found}
    (FOLDER / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


def table() -> str:
    """Each fault with how often it was tried, what was lost, and the command that repeats it."""
    lines = ["| what was done | how often | what was wrong afterwards | command |", "| --- | --- | --- | --- |"]
    for file in sorted(FOLDER.glob("*.json")):
        kept = json.loads(file.read_text())
        found = kept["found"]
        for row in found["rows"]:
            lines.append(f"| {row['what']} | {row['times']:,} | {row['wrong'] or 'nothing'} | `{kept['command']}` |")
    return "\n".join(lines)


def page() -> str:
    """The page with the table of what is kept."""
    return with_part(PAGE.read_text(encoding="utf-8"), "faults", table())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
