"""Train semantic segmentation networks and measure how good, and how well calibrated, they are.

This package knows data, networks and figures. It knows no tracker and no tuner.
"""
