"""Delayed labels: rows that were scored wait here for their label, and are joined with it by their id.

In reading order: `store` is what a store of waiting rows must do, `sqlite` one in a file that all workers of a machine
share, `redis` one that replicas share; `joining` finds what became of each id and what class each label means;
`keeping` does both beside the event loop. Nothing is known here of HTTP, and nothing of what is made of the labels.
"""
