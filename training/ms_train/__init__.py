"""The recipe that makes checkpoints."""
