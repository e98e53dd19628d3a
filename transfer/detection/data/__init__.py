"""Data sets for Detectron2: registered, checked, shared between ranks."""
