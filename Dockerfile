# The image of registry-module: one static binary, CA certificates and an empty
# data directory, owned by the user that it runs as.
#
#   docker build -t registry-module .
#   docker buildx build --platform linux/amd64,linux/arm64,linux/arm/v7 -t registry-module .
#
# It uses nothing that the classic builder lacks, so that an old Docker Engine
# can build it too; that one does not set the platform arguments by itself:
#
#   docker build --build-arg BUILDPLATFORM=linux/amd64 -t registry-module .

# BUILDER is an image with a shell, CA certificates and the Go toolchain that
# go.mod asks for.
ARG BUILDER=golang:1.26-bookworm
# No default here and below: with one, BuildKit's own value would be lost.
ARG BUILDPLATFORM

# The build runs on the machine's own platform whatever the image is for: Go
# cross-compiles, and emulation is slow.
FROM --platform=${BUILDPLATFORM} ${BUILDER} AS build
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION=devel
WORKDIR /src
COPY . .
# Where the builder sets no target, the variables are empty, which the go
# command takes as not set. TARGETVARIANT is v7 for linux/arm/v7.
RUN CGO_ENABLED=0 GOOS="${TARGETOS}" GOARCH="${TARGETARCH}" GOARM="${TARGETVARIANT#v}" \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" \
    -o /image/registry-module ./cmd/registry-module
# /tmp is for `demo`, which makes a cache of its own.
RUN mkdir -p /image/etc/ssl/certs /image/tmp /data \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && chmod 1777 /image/tmp

FROM scratch
ARG VERSION=devel
LABEL org.opencontainers.image.title="registry-module" \
      org.opencontainers.image.description="A pull-through caching OCI registry for thin and absent links" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /image /
# Before VOLUME: a new named volume gets the content and the owner of the
# directory that it is mounted over.
COPY --from=build --chown=65532:65532 /data /var/lib/registry
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
VOLUME /var/lib/registry
# 8000 is for clients, 5001 for health and metrics.
EXPOSE 8000 5001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/registry-module"]
CMD ["serve"]
