"""Checkpoints: orbax for training, .npz for exchange."""
