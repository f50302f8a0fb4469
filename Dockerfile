# Static programs, each alone in an empty image, run by a user that is not root: `docker build .` makes quorate,
# `docker build --target quorate-operator .` the operator. Without Docker: `make images`.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends musl-tools && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
# One after the other: built together, they would share features of libraries that the operator cannot bear.
RUN target="$(uname -m)-unknown-linux-musl" \
 && cargo build --release --locked --target "$target" --package quorate --bin quorate \
 && cargo build --release --locked --target "$target" --package quorate-operator --bin quorate-operator \
 && mkdir /out /data && cp "target/$target/release/quorate" "target/$target/release/quorate-operator" /out \
 && strip /out/*

FROM scratch AS quorate-operator
COPY --from=build /out/quorate-operator /usr/local/bin/quorate-operator
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["quorate-operator"]

FROM scratch AS quorate
COPY --from=build /out/quorate /usr/local/bin/quorate
# A new named volume takes its owner from this folder.
COPY --from=build --chown=65532:65532 /data /data
ENV PATH=/usr/local/bin DATA_DIR=/data BIND=0.0.0.0
USER 65532:65532
EXPOSE 8000 6379 7400
VOLUME /data
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["quorate", "status", "--ready", "--timeout", "2s"]
ENTRYPOINT ["quorate"]
CMD ["serve"]
