"""Streams that outlive the machine they run on: ms-serve's gateways over engines elsewhere, with Ray Serve."""
