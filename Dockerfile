# Web, worker and clock use this image with different commands: see compose.yaml. tests/support/hosts/image.py runs these steps without Docker.
FROM debian:bookworm-slim AS build
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /build/requirements.txt
RUN python3 -m venv /opt/intray && /opt/intray/bin/pip install -q --no-cache-dir --require-hashes --only-binary :all: -r /build/requirements.txt && /opt/intray/bin/pip uninstall -q -y pip

FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3 ca-certificates bubblewrap && rm -rf /var/lib/apt/lists/*
RUN groupadd --system --gid 10001 intray && useradd --system --uid 10001 --gid intray --home-dir /data --no-create-home --shell /usr/sbin/nologin intray
RUN install -d -o intray -g intray -m 0750 /data
COPY --from=build /opt/intray /opt/intray
WORKDIR /app
COPY manage.py pyproject.toml ./
COPY monolith monolith
COPY templates templates
COPY jobs jobs
ENV PATH=/opt/intray/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=8000 INTRAY_HOME=/data
RUN python -m compileall -q /app
USER intray
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=3)"]
CMD ["python", "manage.py", "web"]
