"""Input pipeline: image sources, views, samplers and loaders."""
