# The sandbox API's image, for docker-compose.yml. Not a stage of deploy/Dockerfile: the classic builder builds every
# stage, and the worker's image must not wait for it. Up to the dependencies the lines are the same, so that both share them.

FROM rust:1.95-slim-trixie AS build
WORKDIR /build
# Dependencies first, with stubs for every target that Cargo.toml names: this layer lasts until a dependency changes.
COPY Cargo.toml Cargo.lock ./
RUN for file in src/lib.rs tests/architecture.rs $(sed -n 's/^path = "\(.*\)"$/\1/p' Cargo.toml); do \
      mkdir -p "$(dirname "$file")" && echo 'fn main() {}' >"$file" || exit 1; \
    done; \
    cargo build --release --locked --bin tallyfy-delete-worker
COPY src src
RUN find src -name '*.rs' -exec touch {} + && \
    cargo build --release --locked --bin tallyfy-sandbox

FROM debian:trixie-slim
COPY --from=build /build/target/release/tallyfy-sandbox /usr/local/bin/
USER 65532:65532
ENV SANDBOX_LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=2s --timeout=3s --retries=15 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /_sandbox/health HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tallyfy-sandbox"]
