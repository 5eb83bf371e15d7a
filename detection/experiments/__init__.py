"""Experiments on whole runs: comparison of R-CNN and SPP-net, combined models, proposal evaluation."""
