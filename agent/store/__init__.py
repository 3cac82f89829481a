"""The cache on the disk: blobs, published snapshots, the hub view and the index."""
