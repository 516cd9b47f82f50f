"""The judge: what a generator draws, measured beside real images that it never saw."""
