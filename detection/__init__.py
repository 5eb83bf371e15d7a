"""The SPP-net detector: backbones, features, heads, training, runs and experiments."""
