# syntax=docker/dockerfile:1
# The live page of the demo in a container: docs/howto/docker.md. Runs on a CPU as it stands; arguments make other images.
ARG PYTHON=3.12
ARG BASE=python:${PYTHON}-slim-bookworm

# Builds the wheel, and the demo's bundle with PyTorch, which stays behind here.
FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX_URL=
WORKDIR /src
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "torch>=2.11,<2.14"
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels . && pip install "$(echo /wheels/ms_infer-*.whl)[cpu,export]"
RUN ms-export demo -o /bundles/demo

FROM ${BASE}
ARG EXTRAS=cpu,serve
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install "$(echo /wheels/ms_infer-*.whl)[${EXTRAS}]"
COPY --from=build /bundles /bundles
RUN useradd --create-home --uid 1000 streamer
USER 1000
ENV MS_INFER_CACHE=/home/streamer/cache
EXPOSE 8600
ENTRYPOINT ["ms-serve", "--host", "0.0.0.0", "--port", "8600"]
CMD ["/bundles/demo"]
