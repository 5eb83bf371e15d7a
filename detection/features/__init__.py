"""Feature maps and pooled vectors of boxes: extractors, projection, pyramid pooling, the store of maps."""
