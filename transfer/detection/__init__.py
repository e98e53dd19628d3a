"""Detection and segmentation with Detectron2.

Importing this package prepares Detectron2 for import (see transfer/detectron2_compat.py), so its modules import
detectron2 directly.
"""

import transfer.detectron2_compat  # noqa: F401  patches NumPy and Pillow names that Detectron2 v0.6 needs
