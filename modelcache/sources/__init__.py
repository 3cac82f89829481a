"""Where models come from: one module per URI scheme behind the interface of `modelcache.sources.base`."""
