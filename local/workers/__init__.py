"""Stand-ins for inference workers, as far as LoRA adapters are concerned: what an engine lists, loads and unloads.

For the demo, the tests and the benchmarks, on a machine without GPUs. Each worker has an address of its own on loopback and
speaks one of three protocols; each is also a Pod on the API server with the labels, readiness, mounts and container starts
of a real one, so that everything that follows pods finds it. An adapter is accepted only if the directory is really there,
seen through the mounts of the pod, and is really an adapter.

`adapters`                    what an engine finds at a path in its container
`engine`                      what an engine remembers and does, whatever its protocol
`switches`                    misbehaving on purpose
`dynamo`, `vllm`, `sglang`    the three protocols
`container`                   one worker's address: started, restarted, stopped
`pods`                        what the kubelet would say about it: pure
`kubelet`                     says it to an API server
`workers`                     all workers of a process
`control`, `__main__`         the command, and how workers are made to misbehave from outside
"""
