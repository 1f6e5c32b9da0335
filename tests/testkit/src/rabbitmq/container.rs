//! RabbitMQ in a container.

use testcontainers::{
    GenericImage, ImageExt,
    core::{ContainerPort, WaitFor},
    runners::AsyncRunner,
};
use url::Url;

use super::{
    Broker, Certificates, Control, QUICK_DEAD_LETTERING, QUICK_STATISTICS, STARTUP,
    guardian::guard, private_node::free_ports,
};

/// With the usual 1,024, RabbitMQ 3.10 stalls under the tests that run at the same time.
const OPEN_FILES: i64 = 20_000;
const AMQP: ContainerPort = ContainerPort::Tcp(5672);
const AMQPS: ContainerPort = ContainerPort::Tcp(5671);
const MANAGEMENT: ContainerPort = ContainerPort::Tcp(15672);

/// Starts `image` (name and tag) with the engine at `endpoint`.
pub(super) async fn start(endpoint: &str, image: &str) -> Result<Broker, String> {
    let name = format!("tallyfy-test-{}", uuid::Uuid::new_v4().simple());
    // Set before the container exists, so that there is no moment without a guardian. It removes
    // twice, in case the container is just being created.
    let remove = r#"for pause in 3 0; do docker -H "$1" rm -fv "$2"; sleep $pause; done"#;
    guard("", remove, &[endpoint, &name])?;
    let (repository, tag) = image.split_once(':').unwrap_or((image, "latest"));
    // Ports of our choice stay the same when the container is started again.
    let [amqp, amqps, management] = free_ports().map_err(|error| error.to_string())?;
    let certificates = Certificates::new();
    let config =
        format!("{QUICK_STATISTICS}{}", Certificates::settings("5671", "/etc/rabbitmq/tls"));
    let limits = format!("* soft nofile {OPEN_FILES}\n* hard nofile {OPEN_FILES}\n");
    let image_with_ports = GenericImage::new(repository, tag)
        .with_exposed_port(AMQP)
        .with_exposed_port(AMQPS)
        .with_exposed_port(MANAGEMENT)
        .with_wait_for(WaitFor::message_on_stdout("Server startup complete"))
        .with_mapped_port(amqp, AMQP)
        .with_mapped_port(amqps, AMQPS)
        .with_mapped_port(management, MANAGEMENT)
        .with_container_name(&name)
        .with_copy_to("/etc/rabbitmq/conf.d/90-test.conf", config.into_bytes())
        .with_env_var("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", QUICK_DEAD_LETTERING)
        // Without it the C library asks for /etc/localtime at each line of the log, a third of all
        // that Docker's file system has to do.
        .with_env_var("TZ", "UTC0")
        .with_ulimit("nofile", OPEN_FILES, Some(OPEN_FILES))
        // Debian's own start of RabbitMQ goes through `su`, which sets the limit back to 1,024: too
        // few for the streams and quorum queues of many virtual hosts at once.
        .with_copy_to("/etc/security/limits.d/90-test.conf", limits.into_bytes())
        .with_startup_timeout(STARTUP);
    let with_files =
        certificates.of_the_broker().into_iter().fold(image_with_ports, |image, (name, text)| {
            image.with_copy_to(format!("/etc/rabbitmq/tls/{name}"), text.as_bytes().to_vec())
        });
    let started = with_files.start().await;
    let container = started.map_err(|error| format!("RabbitMQ in Docker ({image}): {error}"))?;
    let host = container
        .get_host()
        .await
        .map_err(|error| format!("RabbitMQ in Docker ({image}): {error}"))?;
    // The guardian removes it: a static is never dropped.
    std::mem::forget(container);
    // `localhost` may be ::1 first, where nothing listens.
    let host =
        Some(host.to_string()).filter(|host| host != "localhost").unwrap_or("127.0.0.1".into());
    let amqp = Url::parse(&format!("amqp://guest:guest@{host}:{amqp}"))
        .map_err(|error| error.to_string())?;
    Ok(Broker {
        description: format!("in Docker ({image})"),
        amqp,
        management: format!("http://{host}:{management}"),
        control: Control::Container { endpoint: endpoint.to_owned(), name },
        tls: Some((amqps, certificates)),
    })
}
