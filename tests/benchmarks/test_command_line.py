"""`python -m benchmarks` as people run it, with stages that take no time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

STAGE = """
from benchmarks.case import Case, Goal
from benchmarks.rounds import Contestant
from tests.benchmarks import contestants

TITLE = "Waiting"

def same(values):
    assert values["this project"] == values["other"], "the results differ"
    return "both returned nothing"

def cases(quick):
    ours = Contestant("this project", "ours", contestants.sleeping, (0.05,))
    other = Contestant("other", "peer", contestants.{other})
    return [Case("sleep", "naps", 2, [ours, other], same, [Goal("other", 1.5)], rounds=9)]
"""


def test_stages_are_run_kept_and_shown_and_failures_told(tmp_path: Path) -> None:
    package = tmp_path / "benchmarks"
    (tmp_path / "docs/images").mkdir(parents=True)
    shutil.copytree(PROJECT / "benchmarks", package, ignore=shutil.ignore_patterns("stages", "results", "__pycache__"))
    (package / "stages").mkdir()
    (package / "stages/__init__.py").write_text("SLOW_IMPORTS = []\n")
    for name, other in {
        "fine": "sleeping, (0.15,)", "broken": 'failing, ("works",)', "different": 'looking, ("PATH",)'
    }.items():  # fmt: skip
        (package / f"stages/{name}.py").write_text(STAGE.format(other=other))
    (package / "stages/absent.py").write_text('TITLE = ""\ndef cases(quick): raise SystemExit("no pictures here")\n')
    (tmp_path / "docs/benchmarks.md").write_text(
        "<!-- stages --><!-- end of stages -->\n<!-- growth --><!-- end of growth -->\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "benchmarks", *arguments],
            cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{PROJECT}"},
        )  # fmt: skip

    done = run("--quick", "--output", "found", "absent", "broken", "different", "fine")
    assert done.returncode == 1, done.stderr
    assert "absent has failed: no pictures here\n" in done.stderr
    assert "ZeroDivisionError" in done.stderr.partition("broken has failed")[2]
    assert "different has failed: AssertionError: the results differ\n" in done.stderr
    assert "fine, 1 of 1: sleep: round 1 of 1: other 0." in done.stderr
    assert done.stderr.endswith("Failed, for the reasons above: absent, broken, different\n")
    kept = sorted(file.name for file in (tmp_path / "found").iterdir())
    assert kept == ["fine.json", "speed.png", "table.md"]
    record = json.loads((tmp_path / "found/fine.json").read_text())
    assert record["command"] == "python -m benchmarks fine --quick"
    assert record["quick"] is True
    (case,) = record["cases"]
    assert 1.5 < case["ratios"]["other"]["median"] < 4
    assert case["goals"][0]["met"] is True
    assert case["compared"] == "both returned nothing"
    assert done.stdout.startswith((tmp_path / "found/table.md").read_text())
    assert "Look at found/table.md, found/speed.png" in done.stdout.splitlines()[-1]

    done = run("--docs", "--output", "found")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "found/table.md").read_text()
    assert f"<!-- stages -->\n\n{table}\n<!-- end of stages -->" in (tmp_path / "docs/benchmarks.md").read_text()
    assert (tmp_path / "docs/images/speed.png").read_bytes() == (tmp_path / "found/speed.png").read_bytes()
    done = run("fine", "foul")
    assert done.returncode == 2
    assert "there is no stage foul; there are absent, broken, different, fine, growth" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom benchmarks import __main__\n"
        "try: __main__.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'mlflow', 'numpy', 'matplotlib', 'optuna') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "growth" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
