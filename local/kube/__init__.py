"""A Kubernetes API server in one process, for machines without a cluster: `python -m local.kube`."""
