//! RabbitMQ in a container, on ports that Docker chooses.

use testcontainers::{
    ContainerAsync, GenericImage, ImageExt, TestcontainersError,
    core::{ContainerPort, WaitFor},
    runners::AsyncRunner,
};
use url::Url;

use super::{QUICK_STATISTICS, STARTUP, guardian::guard};

const AMQP: ContainerPort = ContainerPort::Tcp(5672);
const MANAGEMENT: ContainerPort = ContainerPort::Tcp(15672);

/// Starts `image` (name and tag) with the engine at `endpoint`; gives description, AMQP URL and management URL.
pub(super) async fn start(endpoint: &str, image: &str) -> Result<(String, Url, String), String> {
    let name = format!("tallyfy-test-{}", uuid::Uuid::new_v4().simple());
    // Set before the container exists, so that there is no moment without a guardian; twice, for one in the making.
    let remove = r#"for pause in 3 0; do docker -H "$1" rm -fv "$2"; sleep $pause; done"#;
    guard("", remove, &[endpoint, &name])?;
    let (repository, tag) = image.split_once(':').unwrap_or((image, "latest"));
    let started = GenericImage::new(repository, tag)
        .with_exposed_port(AMQP)
        .with_exposed_port(MANAGEMENT)
        .with_wait_for(WaitFor::message_on_stdout("Server startup complete"))
        .with_container_name(name)
        .with_copy_to("/etc/rabbitmq/conf.d/90-test.conf", QUICK_STATISTICS.as_bytes().to_vec())
        .with_startup_timeout(STARTUP)
        .start()
        .await;
    let container = started.map_err(|error| format!("RabbitMQ in Docker ({image}): {error}"))?;
    let found = ports(&container).await.map_err(|error| format!("RabbitMQ in Docker ({image}): {error}"))?;
    // Its removal is the guardian's: a static is never dropped.
    std::mem::forget(container);
    let (host, amqp, management) = found;
    let amqp = Url::parse(&format!("amqp://guest:guest@{host}:{amqp}")).map_err(|error| error.to_string())?;
    Ok((format!("in Docker ({image})"), amqp, format!("http://{host}:{management}")))
}

async fn ports(container: &ContainerAsync<GenericImage>) -> Result<(String, u16, u16), TestcontainersError> {
    let host = container.get_host().await?.to_string();
    // `localhost` may be ::1 first, where nothing listens.
    let host = if host == "localhost" { "127.0.0.1".into() } else { host };
    let amqp = container.get_host_port_ipv4(AMQP).await?;
    Ok((host, amqp, container.get_host_port_ipv4(MANAGEMENT).await?))
}
