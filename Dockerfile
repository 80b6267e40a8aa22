# syntax=docker/dockerfile:1.7
# One image for every part: `wahafleet api`, `wahafleet daemon`, `wahafleet egress`, `wahafleet migrate`.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# What runs, each file checked against its hash. On its own, so that a change of code does not fetch it again.
COPY requirements/ requirements/
RUN python -m venv /opt/wahafleet \
 && /opt/wahafleet/bin/pip install --require-hashes --only-binary=:all: -r requirements/runtime.lock

# What builds, in another venv, from the same lock file: hatchling and what it needs.
RUN python -m venv /opt/build \
 && awk '/^[^ ]/ {keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} keep' requirements/dev.lock > build.lock \
 && /opt/build/bin/pip install --require-hashes --only-binary=:all: -r build.lock

COPY pyproject.toml README.md ./
COPY api/ api/
COPY cli/ cli/
COPY core/ core/
COPY daemon/ daemon/
COPY egress/ egress/
COPY jobspecs/ jobspecs/
COPY sandbox/ sandbox/
RUN /opt/build/bin/hatchling build -t wheel -d /dist \
 && /opt/wahafleet/bin/pip install --no-deps --no-index /dist/*.whl

FROM python:3.11.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin wahafleet
COPY --from=build /opt/wahafleet /opt/wahafleet
ENV PATH=/opt/wahafleet/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["wahafleet"]
CMD ["--help"]
