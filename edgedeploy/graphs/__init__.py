"""ONNX graphs: the common floor of export and calibration.

read.py opens a file (structure.py checks it, weights.py sizes it), metadata.py writes one. view.py answers
which nodes compute and read a tensor, edit.py changes a model, surgeon.py has the verbs of graph passes.
run.py runs a model as written, feeds.py draws its inputs, opset.py converts it to another opset.
"""
