"""Training: pure steps (losses, loop), resumable checkpoints, thin Ray Train shells."""
