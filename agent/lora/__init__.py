"""LoRA adapters: from the node's cache into the engines of the pods on this node, and out again.

The controller says which adapter belongs into which pod, and how each pod is; this package talks to the engines.

`adapters`                  all of it together: what the rest of the agent knows
`desired`                   what the controller wants, read from the wire
`arrangement`, `mounts`     what belongs into a pod, and where the pod sees it. Pure
`plan`                      what to do next about one pod. Pure
`knowledge`                 what is known about one engine, and how its answers change it. Pure
`session`                   does what the plan says, for one pod
`record`                    what was loaded where, on disk
`adapter`                   whether files are an adapter
`engine`, `probe`           what is needed of an engine, and which one answers; `dynamo`, `vllm`, `sglang` are the engines
`http`, `errors`, `lanes`   one bounded request, what can go wrong with it, and how many there are at once
`report`                    what is told to the controller. Pure
"""
