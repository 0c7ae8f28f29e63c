"""Heads: models that turn rows of features into rows of logits.

    graphs        builds the ONNX of a linear head, and reads one back
    description   head.json: what a head says of itself
    storage       which versions lie in a folder
    engine        one onnxruntime session: opened, checked, warmed up, run
    repository    versions -> immutable handles that have passed their self-test

Nothing here knows a request, a label or HTTP.
"""
