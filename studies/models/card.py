"""The description of a logged model: what it is, how good it is, what goes in and comes out, and how to ask it."""

from collections.abc import Mapping

from segmentation.data import Split
from segmentation.errors import listed
from segmentation.io.channels import counted
from segmentation.metrics import COMPARED, METRICS
from studies.base.markdown import code, escaped
from studies.base.tables import table
from studies.models.request import COLUMN
from studies.models.stored import StoredModel

MOST_CLASSES = 50
"""Classes that a description lists."""


def model_card(stored: StoredModel, metrics: Mapping[str, float], split: Split, uri: str) -> tuple[str, dict[str, str]]:
    """Return the description of a model in Markdown, and its tags.

    Args:
        stored: the model.
        metrics: its metrics on a split, by name.
        split: that split.
        uri: the model as MLflow names it, for the example request.
    """
    scored_on = split.title
    names = [escaped(name) for name in stored.labels.names]
    resized = (
        "at its own size"
        if stored.config.resize is None
        else f"with its shorter side resized to {stored.config.resize} pixels"
    )
    channels, bits = stored.config.channels, stored.bits
    taken, files = "RGB images", "PNG, JPEG or other image file"
    if (channels, bits) != (3, 8):
        taken, files = f"images with {counted(channels)} of {bits} bits", "TIFF or other image file"
    rows = [[METRICS[name].label, f"{metrics[name]:.4f}"] for name in COMPARED]
    lines = [
        f"**{escaped(stored.described())}**, trained on {code(split.location)}.",
        "",
        *table([f"{escaped(scored_on)}, {len(split)} images", "value"], rows),
        "",
        f"**Classes** ({len(names)}): {listed(names, MOST_CLASSES)}.",
        "",
        f"**Input**: {taken} of any size, in field `{COLUMN}`: base64 of a {files}, or pixels "
        f"`(H, W, {channels})` from 0 to {2**bits - 1}. The network sees each image {resized}. **Output**: class and "
        f"confidence of every pixel, at the image's own size.",
        "",
        "**Example request**: start the server, then send an image from another terminal.",
        "",
        "```sh",
        f"mlflow models serve -m {uri} --env-manager local -p 5001",
        """printf '{"inputs": ["%s"], "params": {"encoding": "png"}}' "$(base64 < image.jpg | tr -d '\\n')" |""",
        "  curl -sS -H 'Content-Type: application/json' --data-binary @- http://127.0.0.1:5001/invocations",
        "```",
    ]
    tags = {
        "model": stored.config.model, "dataset": stored.config.dataset,
        "classes": ", ".join(stored.labels.names)[:4000],
        "epoch": str(stored.epoch), "calibration": (stored.calibration or {}).get("method", "none"),
        "resize": str(stored.config.resize), "scored_on": f"{scored_on}, {len(split)} images",
        **{f"{split.name}/{name}": f"{metrics[name]:.4f}" for name in COMPARED},
    }  # fmt: skip
    return "\n".join(lines), tags
