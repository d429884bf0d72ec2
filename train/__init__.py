"""Virtual scans of training anatomy → the learned prior: an ONNX file, its digest and the figures of its model card."""
