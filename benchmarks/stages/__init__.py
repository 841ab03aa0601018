"""Benchmark stages, one per file, each with a title and its cases."""

SLOW_IMPORTS = [
    "lightning.pytorch", "netcal.metrics", "scipy.stats", "studies.search.worker", "studies.runs.training",
    "torchmetrics", "torchvision.transforms.v2",
]  # fmt: skip
"""Imports of the contestants, which the quick mode does once for all."""
