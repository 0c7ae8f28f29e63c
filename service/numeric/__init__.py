"""Softmax, cross-entropy and their relatives, each the exact function of its inputs, rounded once.

Pure array functions, lowest first; nothing here knows of requests, models or HTTP:

    checks      what may enter, and the error for what may not
    kernel      differences, exponentials and sums that lose nothing
    float32     one pass over rows of logits: probabilities, logarithms, sums
    float64     the same with every digit of float64
    softmax     probabilities, log-probabilities, entropy, classes
    losses      cross-entropy and what follows from it: accuracy, Brier score, gradient
    calibration temperature and vector scaling: applied, and fitted to labelled logits
    scores      how good probabilities are over many rows, and how far they can be believed
    quality     the same as sums that do not grow with the rows, and what traffic looks like
"""
