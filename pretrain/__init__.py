"""Contrastive pretraining with hard negative mixing: pure PyTorch, without Detectron2 and without a cluster."""
