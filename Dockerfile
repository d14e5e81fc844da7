# resift serve with the embedded model:
#   docker build -t resift .
#   docker run -p 8787:8787 -e RESIFT_SERVE_API_KEY=... --stop-timeout 40 resift
# It builds with BuildKit and without. The versions of packages are those of the tests. The software bill of materials, CycloneDX:
#   docker run --rm --entrypoint cat resift /opt/resift/sbom.json

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS build
WORKDIR /source
COPY . .
RUN python -m venv --without-pip /opt/resift \
    && pip --python /opt/resift/bin/python install --no-cache-dir -c constraints/test.txt '.[serve]'
RUN python -m venv /sbom && /sbom/bin/pip install --no-cache-dir 'cyclonedx-bom==7.5.0' \
    && /sbom/bin/cyclonedx-py environment --output-reproducible -o /opt/resift/sbom.json /opt/resift/bin/python

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
COPY --from=build /opt/resift /opt/resift
RUN useradd --uid 10001 --create-home resift && install -d -o 10001 /store
USER 10001
# All addresses of the container: the server refuses to start without RESIFT_SERVE_API_KEY, RESIFT_SERVE_API_KEY_FILE or
# RESIFT_SERVE_NO_AUTH=true.
ENV PATH=/opt/resift/bin:$PATH \
    RESIFT_SERVE_HOST=0.0.0.0 \
    RESIFT_SERVE_PORT=8787
EXPOSE 8787
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['RESIFT_SERVE_PORT'] + '/ready', timeout=4)"]
ENTRYPOINT ["resift", "serve"]
