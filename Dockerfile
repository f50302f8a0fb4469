# Builds the one binary and puts it alone into a small image that does not run as root.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package quorate --bin quorate && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/quorate /usr/local/bin/quorate
# A new named volume takes its owner from this folder.
COPY --from=build --chown=nonroot:nonroot /data /data
ENV DATA_DIR=/data BIND=0.0.0.0
EXPOSE 8000 6379 7400
VOLUME /data
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["quorate", "status", "--ready", "--timeout", "2s"]
ENTRYPOINT ["quorate"]
CMD ["serve"]
