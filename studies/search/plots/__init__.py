"""Plots of a study: numbers in, `Figure` out. `studies.search.study_plots` computes the numbers."""

from studies.search.plots.heat_maps import heat_maps
from studies.search.plots.history import search_history
from studies.search.plots.importance import importances
from studies.search.plots.pareto import pareto_front
from studies.search.plots.scatter import scatter
from studies.search.plots.trial_curves import trial_curves

__all__ = ["heat_maps", "importances", "pareto_front", "scatter", "search_history", "trial_curves"]
