"""The student in plain PyTorch."""
