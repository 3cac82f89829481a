"""Runs on every node: downloads, verifies and publishes models, labels its node.

`main`                 puts the parts together; the place to start reading
`plan`                 decides: from what is wanted and what is there to the next step, the labels and the phase. Pure
`worker`, `models`     do it: one supervised worker for each model, and all of them together
`content`, `failures`  what the two know about manifests and snapshots, and about exceptions
`node`                 the labels of the agent's own Node
`sync`, `channel`      the stream to the controller; `desired` and `report` are what goes over it, in and out
`metrics`, `counting`  what is told to Prometheus
`ports`, `fetching`    what the control side needs of disk and network, and how it gets it
`settings`             what an administrator can set
`prepare`              what the init container does, before the agent starts
`slots`, `threads`, `wakeup`, `progress`   mechanics that know nothing of models
`store/`, `transfer/`  the cache on the disk, and the engine that fills it

Everything outside `store/` and `transfer/` runs in one event loop; those two block, and are called in threads.
"""
