"""The part of a kubelet that agents need: it puts a token and the cluster's authorities into their pods, as files.

On a cluster the agent's pod has a projected volume with a ServiceAccount token that is bound to the pod, and the ConfigMap
`modelcache-ca`. Where agents are processes on one machine, this one does the same: it registers the pods (so that the API
server knows on which node each is), asks for a token for each, writes both files, and replaces them when they change.
"""
