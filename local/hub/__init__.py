"""A small server of the Hugging Face protocol, for the demo, the tests and the benchmarks.

It speaks the part of the protocol that reads models, well enough for the unmodified `huggingface_hub` and `hf download`:
the model API, paginated trees, `resolve` with its headers, redirects of large files to a separate origin with signed
URLs, ranges, tokens, private and gated repositories. It has no Xet, no uploads and no search.

`repository`, `gitobjects`, `lfs`   what is served: repositories, commits and files, with the object ids git would give them
`layout`                            repositories from directories on disk
`access`                            who may see what: a pure function
`views`                             the JSON of the API: pure functions
`message`                           requests and responses, and the errors of the protocol
`api`, `content`, `control`         the three groups of endpoints: model API, file bytes, `/_stats` and its siblings
`faults`, `limits`, `stats`         misbehaving on purpose, being slow on purpose, counting
`hub`, `server`                     all of it together; sockets and threads
"""
