"""Other ways to do the same work, on the same weights, measured in the same run."""
