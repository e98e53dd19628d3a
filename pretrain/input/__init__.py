"""From files to batches: image sources, views, samplers and loaders."""
