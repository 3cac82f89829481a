"""Kubernetes client machinery on the official client; knows nothing of models.

From the bottom up, each using only what is above it:

    errors, resources, objects   failures, addresses, and the shape that all objects share
    clock, backoff, lines        time that tests can turn, waiting after failures, lines of a stream
    credentials, session         who we are, kept fresh, and the HTTP below everything
    client                       get, list, create, replace, patch, apply, delete
    cache, informer              a local copy of one kind of objects that follows the server
    queue                        which keys need attention, one worker per key
    elector                      one leader among several processes
    correlator, events           what `kubectl describe` shows
"""
