"""A Kubernetes API server in one process, for machines without a cluster: `python -m local.kube`.

It behaves like kube-apiserver 1.36 with the part of kube-controller-manager that nothing can do without (definitions,
namespaces, garbage collection); where it differs from the real server it is wrong. Nothing schedules or runs pods. The way
of a request through the package:

    HTTP            server -> routes, negotiation, parameters -> endpoints -> presentation, responses
    reading         reads (get, list, pages), watching, conversion (versions), selectors, table*
    writing         documents (bodies, protobuf -> an object of the kind) -> writes, deletes, subresources, reviews, tokens
      patches       patches, strategic (merge keys), ownership + fieldset + merging (server-side apply)
      judging       metadata, names, rules (per kind), structural + value_validation + cel (schemas), crd, errors, causes
    keeping         store (versions, history), journal (disk)
    what is served  resources, registry, definitions (CustomResourceDefinitions), discovery, openapi*
    controllers     definitions, namespaces, garbage, expiry; worker is their queue
    wiring          cluster (all of it without HTTP), __main__

Everything runs on one event loop and a write never awaits, so each is atomic; see store.py for why that is enough.
"""
