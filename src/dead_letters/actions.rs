//! Carries out what an operator asks for. Each dead letter is published or written first, and
//! removed when that is certain.

use tokio_util::sync::CancellationToken;

use super::lines::read_lines;
use super::session::{Result, Session};
use super::{DeadJob, Done};
use crate::kind::Kind;
use crate::rabbitmq::AmqpSource;
use crate::rabbitmq::tls::TlsFiles;

/// Does what is asked for. `stop` ends it after the dead letter that it is busy with.
///
/// # Errors
/// [`super::DeadLettersError`]: what was not done is as it was.
pub async fn run(
    kind: Kind,
    job: DeadJob,
    url: &AmqpSource,
    tls: &TlsFiles,
    stop: CancellationToken,
) -> Result<Done> {
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
