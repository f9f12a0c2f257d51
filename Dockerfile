FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/homing
# The dependencies come first: a change of the code alone then rebuilds only the last layer.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        extras = project["optional-dependencies"]; del extras["dev"]; \
        print(*project["dependencies"], *sum(extras.values(), []), sep="\n")' \
        > requirements.txt \
    && /opt/homing/bin/python -m pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY receiver receiver
COPY tracker tracker
COPY homing homing
RUN /opt/homing/bin/python -m pip install --no-deps .

FROM python:3.11-slim
LABEL org.opencontainers.image.title="Homing" \
      org.opencontainers.image.description="Callback receiver and task tracker for image and video APIs that answer minutes later" \
      org.opencontainers.image.licenses="MIT"
# Fixed numeric IDs keep the owner of a mounted volume, and show an orchestrator that this user is not root.
RUN groupadd --gid 10001 homing \
    && useradd --uid 10001 --gid homing --no-log-init --no-create-home --home-dir /data --shell /usr/sbin/nologin homing \
    && install --directory --owner homing --group homing --mode 0750 /data
COPY --from=build /opt/homing /opt/homing
# Without HOMING_API_KEYS the first start makes a key, in /data/homing.db.key.
ENV PATH=/opt/homing/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOMING_DATABASE_URL=sqlite:////data/homing.db \
    HOMING_HOST=0.0.0.0 \
    HOMING_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
# The empty ProxyHandler ignores proxy settings, because the health check must reach this container directly.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('HOMING_PORT', '8000') + '/healthz', timeout=4)"]
# The exec form lets SIGTERM reach Homing, which then finishes the requests in progress.
CMD ["homing", "serve"]
