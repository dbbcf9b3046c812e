"""`ms-stream`, and what all command lines share. May import: everything but bench and serve."""
