"""Runs on every node: downloads, verifies and publishes models, labels its node."""
