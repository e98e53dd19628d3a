"""VOC and COCO metrics of saved detections; neither Detectron2 nor a model is needed."""
