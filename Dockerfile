ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# cpu or cuda: which of the hashed locks in requirements/ goes into the image
ARG LOCK=cpu
# grpc adds what the V2 protocol over gRPC needs, some 20 MB; remote what s3://, gs:// and az:// need, some 150 MB;
# redis what feedback in Redis needs, some 5 MB; otel what traces need, some 8 MB
ARG EXTRAS=
WORKDIR /src
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/venv
COPY requirements/ requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    for lock in ${LOCK} ${EXTRAS}; do set -- "$@" -r "requirements/${lock}.lock"; done \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --disable-pip-version-check --require-hashes "$@" \
    && /opt/build/bin/pip install --disable-pip-version-check --require-hashes -r requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY service/ service/
RUN /opt/build/bin/hatchling build --target wheel --directory /dist \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --disable-pip-version-check --no-deps --no-index /dist/*.whl

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
COPY models/digits/ /models/digits/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    LOGITSERVE_HOST=0.0.0.0 \
    LOGITSERVE_CACHE_DIR=/tmp/logitserve
# from here the default folder of models is /models, and SageMaker's goes before a default, though not before a variable
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; e = os.environ.get; p = e('LOGITSERVE_PORT') or e('AIP_HTTP_PORT') or e('SAGEMAKER_BIND_TO_PORT') or ('8080' if os.path.exists('/opt/ml/model') else '8000'); r.urlopen('http://127.0.0.1:' + p + '/health/ready', timeout=2)"]
ENTRYPOINT ["logitserve"]
CMD ["serve"]
