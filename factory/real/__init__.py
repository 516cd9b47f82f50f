"""Real images: sources, one dataset object, splits, and a drawn demo set."""
