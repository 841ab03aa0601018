"""What is measured: a file each, with a title and its cases."""

SLOW_IMPORTS = [
    "lightning.pytorch", "netcal.metrics", "scipy.stats", "studies.search.worker", "studies.runs.training",
    "torchmetrics", "torchvision.transforms.v2",
]  # fmt: skip
"""What contestants import, so that the quick mode does it once for all."""
