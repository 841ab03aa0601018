"""Keep the results of the drills in `results/`, and write the table of docs/resume.md from them.

    python -m tests.faults.results

writes the table into the page.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.page import with_part
from studies.base.tables import table
from tests.conftest import PROJECT

FOLDER = Path(__file__).parent / "results"
PAGE = PROJECT / "docs" / "resume.md"


def report(name: str, found: dict[str, Any]) -> int:
    """Print a result as a line of JSON, keep it, and return the exit code: 1 if anything was wrong."""
    print(json.dumps(found))
    keep(name, " ".join(["python", "-m", f"tests.faults.{name}", *sys.argv[1:]]), found)
    return 1 if found["wrong"] else 0


def keep(name: str, command: str, found: dict[str, Any]) -> None:
    """Write the result of a command to its file: `rows`, each with `what`, `times` and `wrong`."""
    FOLDER.mkdir(exist_ok=True)
    content = {"command": command, "date": date.today().isoformat(), "found": found}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def drill_table() -> str:
    """Return the table of faults: how often each was tried, what was wrong afterwards, and the command."""
    rows = []
    for file in sorted(FOLDER.glob("*.json")):
        content = json.loads(file.read_text())
        for row in content["found"]["rows"]:
            rows.append([row["what"], f"{row['times']:,}", row["wrong"] or "nothing", f"`{content['command']}`"])
    return "\n".join(table(["fault", "times", "wrong afterwards", "command"], rows))


def page() -> str:
    """Return the page with the table of the kept results."""
    return with_part(PAGE.read_text(encoding="utf-8"), "faults", drill_table())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
