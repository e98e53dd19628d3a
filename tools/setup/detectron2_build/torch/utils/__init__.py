"""The one module of torch.utils that Detectron2's setup.py imports."""
