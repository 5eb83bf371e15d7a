"""Experiments on whole runs: R-CNN beside SPP-net, combination of models, evaluation of proposals."""
