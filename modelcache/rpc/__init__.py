"""The generated stubs of proto/modelcache/v1 and the command that generates them."""
