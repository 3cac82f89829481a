"""Mutual TLS between the parts of this system: who somebody is, the certificate that says so, and how connections use it.

    identity      what a certificate says about its holder: the controller, or the agent of one node
    certificates  X.509: keys, signing requests, reading what others present
    credentials   one holder's key, certificate and trusted authorities, as `ssl` and gRPC want them
    wallet        the credentials in force, exchanged while everything runs

Nothing here signs: authorities are the controller's (`controller.authority`). Private keys are made in memory and stay there.

Every connection is TLS 1.3 with certificates on both sides, apart from enrolment, where the agent has none yet. No name of
a host is ever compared: addresses say where somebody is, certificates who. So a certificate holds a role and a node in a
URI (`modelcache.tls.identity`), and whoever connects checks that it is the one that he wanted to talk to.

For agents talking to each other:

    server   context = wallet.current.server_context(); socket = context.wrap_socket(..., server_side=True)
             node = presented_node(socket)           the node that asks; nothing it says itself counts
    client   context = wallet.current.client_context(); socket = context.wrap_socket(...)
             presented_node(socket) == wanted        or it is somebody else
"""
