"""Bytes -> ScoreRequest and ScoreResult -> bytes: pure functions, no I/O, no settings, no web framework.

Read in this order; imports only ever point up this list.

    limits       how large a request may be
    media        which media types are read and written, and what an Accept header picks
    protobuf     messages of protobuf: their fields, within bounds
    encodings    gzip, deflate and zstd bodies
    json_reader  bytes -> one JSON object, strictly
    arrays       npy and npz, in and out
    nested       nested JSON lists -> arrays
    options      the table of fields, and the options among them
    json_writer  answers -> JSON, without loss
    tensors      the binary tensors of V2, and its data as JSON
    contents     tensors written out in protobuf
    outputs      what may be asked for, and what is answered unasked
    labels       labels and weights
    fields       assemble: the fields of any dialect -> ScoreRequest
    instances    instances and inputs, the JSON forms that several dialects share
    native       the native dialect, from both of its sides
    schemas      its JSON Schemas and runnable examples
    v2           the Open Inference Protocol V2, from both of its sides
    v2_schemas   its JSON Schemas and runnable examples
    v2_grpc      the same over gRPC
    v2_grpc_models  what it tells of the server and its models
    v1           TensorFlow Serving's REST API and KServe V1; Vertex AI's bodies too
    v1_schemas   their JSON Schemas and runnable examples
"""
