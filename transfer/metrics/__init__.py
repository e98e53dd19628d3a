"""VOC and COCO metrics of saved detections; needs neither Detectron2 nor a model."""
