"""Spatial-temporal data overfitting: a low-resolution video plus small networks overfitted to its patches.

Li et al., Toward High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data Overfitting,
CVPR 2023. Here: what encoder and player share, without torch or onnx.
"""
