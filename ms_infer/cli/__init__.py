"""`ms-stream`, and what all command lines share. May import: stream and what is below it."""
