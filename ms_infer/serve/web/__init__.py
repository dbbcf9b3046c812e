"""The HTTP side: who may ask, what files go in and out, what is told to operators."""
