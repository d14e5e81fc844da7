# resift serve with the embedded model:
#   docker build -t resift .
#   docker run -p 8787:8787 -e RESIFT_SERVE_API_KEY=... --stop-timeout 40 resift

FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[serve]'

FROM python:3.12-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index /wheels/*.whl \
    && useradd --uid 10001 --create-home resift
USER 10001
# All addresses of the container: the server refuses to start without RESIFT_SERVE_API_KEY (or RESIFT_SERVE_NO_AUTH=true).
ENV RESIFT_SERVE_HOST=0.0.0.0 \
    RESIFT_SERVE_PORT=8787
EXPOSE 8787
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['RESIFT_SERVE_PORT'] + '/ready', timeout=4)"]
ENTRYPOINT ["resift", "serve"]
