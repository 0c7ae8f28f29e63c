"""The numeric contract, held against any server: golden vectors asked over HTTP, and the answers judged.

`vectors` are the questions with their exact answers, `judge` says whether an answer holds; `native`, `v2` and
`v1`, each a `dialect`, ask and read in the words of one protocol; `discovery` finds out which words a server has,
`examination` asks everything, and `report` tells. Nothing here computes a softmax: what is right was computed with
256 bits and stands in `vectors.jsonl`.
"""
