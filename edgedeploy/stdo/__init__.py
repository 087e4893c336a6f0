"""STDO: a low-resolution video plus small networks overfitted to its patches; needs neither torch nor onnx.

Li et al., Toward High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data Overfitting,
CVPR 2023.
"""
