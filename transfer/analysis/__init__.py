"""The paper's analyses of pretrained encoders."""
