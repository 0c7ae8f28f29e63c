"""The load test.

In reading order: `scenario` is what is sent and when, `tally` what is counted, `generator` one client process,
`fleet` all of them, `report` and `plot` what is said about it.
"""
