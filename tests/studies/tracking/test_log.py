import json

import mlflow
from matplotlib.figure import Figure
from PIL import Image

from studies import tracking


def test_nan_is_not_logged() -> None:
    with tracking.tracked_run("e", "n", {}) as run_id:
        tracking.log_metrics({"good": 1.0, "absent": float("nan")}, step=1)
        tracking.log_json({"values": [1.0, float("nan")]}, "x.json")
    assert mlflow.get_run(run_id).data.metrics == {"good": 1.0}
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/x.json")) == {"values": [1.0, None]}


def test_a_description_that_is_too_long_is_cut_at_the_end_of_a_line() -> None:
    lines = [f"line {number} of many" for number in range(1000)]
    with tracking.tracked_run("notes", "long", {}) as run_id:
        tracking.log_note("\n".join(lines))
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"].splitlines()
    assert note[:-1] == lines[: len(note) - 1]
    assert note[-1] == "…"
    assert len(note) > 300


def test_a_description_shows_images_between_the_summary_and_the_details() -> None:
    figure = Figure((9, 6), dpi=100)
    with tracking.tracked_run("notes", "pictures", {}) as run_id:
        drawn = tracking.log_figure(figure, "figure.png")
        tracking.log_note("said", [drawn, Image.new("RGBA", (1120, 100))], "| name | value |\n| --- | --- |\n| a | 1 |")
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"].splitlines()
    gap = "\u2003\u200b"
    assert list(filter(None, note)) == [
        "said",
        f"![description/0.png](get-artifact?path=description/0.png&run_uuid={run_id})",
        f"![description/1.png](get-artifact?path=description/1.png&run_uuid={run_id})",
        f"| name{gap} | value |", "| --- | --- |", f"| a{gap} | 1 |",
    ]  # fmt: skip
    assert mlflow.artifacts.load_image(f"runs:/{run_id}/figure.png").size == drawn.size == (900, 600)
    assert mlflow.artifacts.load_image(f"runs:/{run_id}/description/0.png").size == (560, 373)
    assert mlflow.artifacts.load_image(f"runs:/{run_id}/description/1.png").size == (560, 50)
