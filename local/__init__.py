"""Stand-ins for a machine without a cluster: a Kubernetes API, a Hugging Face hub."""
