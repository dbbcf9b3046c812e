"""Pictures and videos that people bring, and those that are there: read, bounded, and cut into things."""
