"""The student in plain PyTorch. May import: numerics, text, config."""
