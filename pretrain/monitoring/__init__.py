"""Metrics, diagnostics and warnings during pretraining."""
