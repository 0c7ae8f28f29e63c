"""Online evaluation: how good heads are while they serve, and whether their traffic has changed.

ledger   a file that outlives its process: counts, and labelled rows that are not counted yet
online   what is noted of requests, and counted later
told     the counts as people and Prometheus read them
"""
