"""`ms-bench`: how fast a stream is on this machine, and how constant. May import: everything but serve."""
