"""The student in plain PyTorch. May import: numerics, config, text."""
