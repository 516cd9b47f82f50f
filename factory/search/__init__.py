"""Search over how much is drawn, and how, against what a downstream learner gains from it."""
