"""Judging heads on labelled data, without a server.

labelled    files of features or logits with their labels, and how they are split
judging     a head run over its features, and scores of its logits, in bounded memory
report      the scores as tables and as JSON
plot        the reliability diagram
"""
