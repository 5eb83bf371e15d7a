"""Feature maps and pooled vectors of regions: extractors, projection, pyramid pooling, the store of maps."""
