# Images of the server. The last stage, cpu, is the default: docker build . ; docker build --target gpu .
# Packages are pinned by the requirements files; the environment is built once and copied, so that the images
# themselves hold no C compiler, no pip and no source tree.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements requirements
RUN pip install --constraint requirements/dev.txt setuptools \
    && python -m venv --without-pip /opt/bptt
COPY LICENSE README.md pyproject.toml ./
COPY proto proto
COPY bptt_core bptt_core
COPY server server
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./proto . \
    && pip --python /opt/bptt/bin/python install --constraint requirements/dev.txt /wheels/*.whl numba

FROM build AS build-gpu
RUN pip --python /opt/bptt/bin/python install --requirement requirements/gpu.txt --constraint requirements/dev.txt

FROM python:3.11-slim-bookworm AS runtime
RUN pip uninstall --yes pip setuptools wheel \
    && install --directory --owner=10001 --group=10001 /data /compiled
# The engine is compiled for the processor it finds, before the server is ready; kept in a volume it is read again.
ENV PATH=/opt/bptt/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/compiled
WORKDIR /data
VOLUME /data
VOLUME /compiled
USER 10001:10001
# 50051 gRPC; 9464 metrics, liveness and readiness
EXPOSE 50051 9464
# The server's own health command: true once the server accepts work, false while it drains.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "server", "--health", "127.0.0.1:50051"]
# Inside a container the server must listen beyond loopback, and says so here; publish the ports to whom you trust.
CMD ["bptt-server", "--host", "0.0.0.0", "--data", "/data"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/bptt /opt/bptt

FROM runtime AS cpu
COPY --from=build /opt/bptt /opt/bptt
