"""Generators and their parts: prompts, text encoder, U-Net, autoencoder, the folder on disk."""
