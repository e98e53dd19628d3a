"""The only part of torch.utils that Detectron2's setup.py imports: cpp_extension."""
