"""Calling judges over the network."""
