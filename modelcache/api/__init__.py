"""DynamoModel in Python: spec, status, conditions, validation, labels, and the CRD that is generated from them."""
