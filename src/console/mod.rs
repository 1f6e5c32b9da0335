//! The console: pages for people, on its own port. They show dead letters, guard, pauses and
//! queues, and do what the command line does, with the same audit events.
//!
//! No page edits a message, and none purges a queue.

mod access;
mod act;
mod action_page;
mod actions;
mod dead;
mod dead_letter;
mod depths;
mod fields;
mod guard;
mod guard_actions;
mod lately;
mod overview;
mod page;
mod parts;
mod routes;
mod seen;
mod viewer;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::guard_tool::Groups;
use crate::http::{self, Bound};
use crate::kind::Kind;
use crate::rabbitmq::AmqpSource;
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::topology::Topology;
pub use access::{Access, Passwords, Who};
use actions::Actions;
use seen::{LastLooks, Look};
pub use viewer::Rights;
use watch::Watched;

const PORT_GRACE: Duration = Duration::from_secs(1);

/// What the console needs.
#[derive(Debug, Clone)]
pub struct ConsoleSettings {
    pub address: SocketAddr,
    pub url: AmqpSource,
    pub tls: TlsFiles,
    /// Only used to look.
    pub topology: Topology,
    pub access: Access,
    /// File that discarded dead letters are appended to; without it none can be discarded.
    pub discarded: Option<PathBuf>,
}

/// A console whose port is bound.
pub struct Console {
    port: Bound,
    shared: Arc<Shared>,
}

/// What all pages share.
pub(crate) struct Shared {
    settings: ConsoleSettings,
    watched: Watched,
    actions: Actions,
    looks: LastLooks<Look>,
    held_looks: LastLooks<(Timestamp, Groups)>,
}

impl Shared {
    fn kinds(&self) -> &[Kind] {
        &self.settings.topology.kinds
    }

    fn broker(&self) -> (&AmqpSource, &TlsFiles) {
        (&self.settings.url, &self.settings.tls)
    }
}

impl Console {
    /// Binds the port.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(settings: ConsoleSettings) -> io::Result<Self> {
        let port = http::bind(settings.address).await?;
        let watched = Watched::new(&settings.topology.kinds);
        let (looks, held_looks) = (LastLooks::default(), LastLooks::default());
        let actions = Actions::default();
        let shared = Shared { settings, watched, actions, looks, held_looks };
        Ok(Self { port, shared: Arc::new(shared) })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// The system's error.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.port.address()
    }

    /// Serves until `stop` fires. Running actions then end after their current dead letter.
    pub async fn run(self, stop: CancellationToken) {
        let Self { port, shared } = self;
        let (watched, until, runtime) = (Arc::clone(&shared), stop.clone(), Handle::current());
        let watching =
            tokio::task::spawn_blocking(move || runtime.block_on(watch::watch(watched, until)));
        let serving = port.serve(routes::routes(Arc::clone(&shared)), stop.clone());
        // A client that never finishes its request does not delay the end.
        let is_over = async {
            stop.cancelled().await;
            sleep(PORT_GRACE).await;
        };
        tokio::select! { () = serving => {} () = is_over => {} }
        shared.actions.end().await;
        let _ = watching.await;
    }
}
