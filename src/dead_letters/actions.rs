//! Carries out an operator's request. Publishes or writes each dead letter first, and removes it
//! only when that is certain.

use tokio_util::sync::CancellationToken;

use super::lines::read_lines;
use super::session::{Result, Session};
use super::{ActionResult, DeadJob};
use crate::kind::Kind;
use crate::rabbitmq::AmqpSource;
use crate::rabbitmq::tls::TlsFiles;

/// Carries out the request. `stop` ends it after the current dead letter.
///
/// # Errors
/// [`super::DeadLettersError`]: whatever was not done is unchanged.
pub async fn run(
    kind: Kind,
    job: DeadJob,
    url: &AmqpSource,
    tls: &TlsFiles,
    stop: CancellationToken,
) -> Result<ActionResult> {
    let lines = match &job {
        DeadJob::Import(file, ..) => read_lines(file.as_deref())?,
        _ => Vec::new(),
    };
    let session = Session::open(kind, url, tls, stop).await?;
    let done = match job {
        DeadJob::List(selection, form) => session.list(&selection, form).await,
        DeadJob::Show(selection, form, limit) => session.show(&selection, form, limit).await,
        DeadJob::Export(selection, file, limit) => {
            session.export(&selection, file.as_ref(), limit).await
        }
        DeadJob::Import(_, bulk) => session.import(&lines, &bulk).await,
        DeadJob::Replay(selection, bulk) => session.replay(&selection, &bulk).await,
        DeadJob::Discard(selection, bulk, file, why) => {
            session.discard(&selection, &bulk, &file, &why).await
        }
    };
    session.close().await;
    done
}
