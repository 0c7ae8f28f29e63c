"""Heads: models that turn rows of features into rows of logits.

    graphs        builds the ONNX of a linear head, and reads one back
    description   head.json: what a head says of itself
    storage       which versions lie in a folder
    engine        one onnxruntime session: opened, checked, warmed up, run
    plan          which versions should serve, and under which names
    handle        one version, immutable, that has passed its self-test
    repository    what serves: opened as planned, swapped, drained

Nothing here knows a request, a label or HTTP.
"""
