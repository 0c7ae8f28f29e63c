"""Weights from somewhere become a head: read, held against their source, written and opened as `serve` opens it.

source      what every source gives, and what it is asked for
tensors     which of many named arrays are the weights and the bias of a linear head
affine      linear maps, folded into one another
npz … onnx  one module a source; each imports its own library, and only when it is asked for
formats     which module reads a file
parity      a head's answers against those of its source
writer      head.json, and files that appear all at once or not at all
exporter    the whole way, once
"""
