"""logitserve: an HTTP scoring service for classification heads.

Read the package in this order; imports only ever point up this list, and `tests/test_house.py` says so.

    errors      what can go wrong, each with its status and code
    instruments what is measured, by name
    metrics     what is counted, and how workers' counts become one text
    exposition  counts as Prometheus's text
    activity    counts over the last minutes, as what came in between
    agreement   what all workers hold alike, whatever it is
    logs        how the log is written
    keys        API keys: what one is, and how keys are written down
    quota       how many CPUs there are for this process
    outcomes    answers that come later, by a call
    types       ScoreRequest -> ScoreResult, the one currency of the service
    settings    every setting, with its reason
    sources     where settings come from; the only reader of the environment
    numeric     softmax, cross-entropy and their relatives, exact to the last bit
    rules       what decisions go by, as data
    wire        bytes -> ScoreRequest and ScoreResult -> bytes; pure
    quality     how good heads are while they serve, counted beside the answers
    heads       models: their files, sessions and versions
    feedback    rows that wait for their labels
    finishing   logits and labels -> outputs
    lanes       what waits for heads, and who is scored together
    scorer      the core: score(ScoreRequest) -> ScoreResult
    shadow      a version scored beside the one that answers, to be compared with it
    rollout     loading and unloading versions while serving, in all workers alike
    api         HTTP: the edge that every route shares, and the routes
    page        the page's files: the playground and the live view, which ask the API for all they show
    client      the same wire from the other side
    application one worker's application: how it starts, follows its models and ends
    app         everything assembled on one page
    workers     processes, signals, draining
    loadtest    many clients, measured
    conformance any server, held against the numeric contract
    export      weights from elsewhere -> heads
    evaluation  heads judged on labelled data, without a server
    commands    one file a command
    cli         the command line
"""

import os

# onnxruntime reports model names and hashes to its makers unless this is set before its first import;
# disable_telemetry_events() afterwards is too late, a device id exists by then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
