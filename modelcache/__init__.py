"""What controller, agents and command line agree on: the DynamoModel API, manifests, sources, paths, the wire contract."""
