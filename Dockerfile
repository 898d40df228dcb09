# syntax=docker/dockerfile:1
# uvit_dia for a CPU (TORCH=cpu) or, with the NVIDIA container toolkit, a GPU (TORCH=cuda; CUDA's libraries come with torch):
#
#     docker build --tag uvit_dia .
#     docker build --tag uvit_dia:cuda --build-arg TORCH=cuda .
#     docker run --rm --volume "$PWD/runs:/home/dia/runs" uvit_dia train --config digits_uvit_dia_cond --workdir runs/quickstart
#     docker build --target check .    # trains, samples and measures the quickstart while it builds: minutes
ARG PYTHON=3.12.12-slim-bookworm

FROM python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# A C compiler, for train.compile. Versions of Debian packages are not pinned: old ones leave the archive.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
    && apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN useradd --uid 1000 --create-home --shell /bin/bash dia

# For .devcontainer: what `make install` and git need; the package itself lies in the mounted clone.
FROM base AS dev
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update \
    && apt-get install --yes --no-install-recommends git make
USER 1000

FROM base AS installed
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG TORCH=cpu
COPY constraints.txt /build/
WORKDIR /build
# torch first: it is the largest layer and changes least. pip's cache is a mount and no part of the image (DL3042).
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip \
    case "${TORCH}" in \
        cpu) pip install --constraint constraints.txt --no-deps \
                --index-url https://download.pytorch.org/whl/cpu torch torchvision ;; \
        cuda) pip install --constraint constraints.txt torch torchvision ;; \
        *) echo "TORCH=${TORCH}: allowed is cpu or cuda" >&2; exit 2 ;; \
    esac
COPY pyproject.toml README.md LICENSE /build/
COPY uvit_dia /build/uvit_dia
COPY configs /build/configs
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --constraint constraints.txt '.[sweep]'
USER 1000
WORKDIR /home/dia

FROM installed AS check
RUN uvit-dia train --config digits_uvit_dia_cond --workdir runs/quickstart \
    && uvit-dia sample --checkpoint runs/quickstart --num_images 100 --guidance_scale 1.5 --output runs/quickstart/grid.png \
    && uvit-dia eval --checkpoint runs/quickstart --num_images 500

FROM installed AS runtime
ENTRYPOINT ["uvit-dia"]
CMD ["--help"]
