"""What goes over a WebSocket to one client: what waits, how frames are coded, what its link carries."""
