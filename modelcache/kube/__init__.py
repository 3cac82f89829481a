"""Kubernetes client machinery on the official client: informer, work queue, leader election, events."""
