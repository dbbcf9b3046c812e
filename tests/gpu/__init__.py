"""What only an NVIDIA GPU can confirm."""
