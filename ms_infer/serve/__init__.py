"""`ms-serve`: a page in which a picture moves the way it is dragged. May import: everything but bench."""
