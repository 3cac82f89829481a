"""Runs once in the cluster: resolves DynamoModels, assigns them to nodes, folds reports into status."""
