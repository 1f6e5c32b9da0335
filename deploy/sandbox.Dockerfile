# The sandbox API's image, for docker-compose.yml. Not a stage of deploy/Dockerfile: the classic builder builds every
# stage, and the worker's image must not wait for it.

FROM rust:1.95-slim-trixie AS build
WORKDIR /build
# Build the dependencies first, with stubs for the sources: this layer stays valid until a manifest or the lock file changes. cargo reads
# the manifests of all workspace members, whichever it builds.
COPY Cargo.toml Cargo.lock ./
COPY tests/bench/Cargo.toml tests/bench/
COPY tests/browser/Cargo.toml tests/browser/
COPY tests/campaign/Cargo.toml tests/campaign/
COPY tests/demo/Cargo.toml tests/demo/
COPY tests/producers/Cargo.toml tests/producers/
COPY tests/sandbox/Cargo.toml tests/sandbox/
COPY tests/testkit/Cargo.toml tests/testkit/
RUN for package in . tests/*; do \
      mkdir -p "$package/src" "$package/benches" && \
      echo 'fn main() {}' | tee "$package/src/main.rs" "$package/benches/decisions.rs" >"$package/src/lib.rs" || exit 1; \
    done; \
    cargo build --release --locked --package tallyfy-sandbox
COPY tests/sandbox/src tests/sandbox/src
# The stubs are newer than the sources: without touch cargo would consider the sources built.
RUN find tests/sandbox -name '*.rs' -exec touch {} + && \
    cargo build --release --locked --package tallyfy-sandbox

FROM debian:trixie-slim
COPY --from=build /build/target/release/tallyfy-sandbox /usr/local/bin/
USER 65532:65532
ENV SANDBOX_LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=2s --timeout=3s --retries=15 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /_sandbox/health HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tallyfy-sandbox"]
