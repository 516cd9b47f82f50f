"""Peers side by side with ours: the same images and steps, one after another in one run."""
