//! The `audit` command: reads back the records of destructive calls.

use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::time::timeout;

use crate::kind::Kind;
use crate::messages::call_record::{AuditEntry, CallRecord};
use crate::messages::derived_id::derived;
use crate::messages::{ObjectId, OrgId, names, time};
use crate::rabbitmq::stream::{StartAt, StreamReader};
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, BrokerError, Connection, PublishError, Publisher};
use crate::table::{OutputFormat, printable, write};

/// From one record to the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which records to print.
#[derive(Debug, Clone)]
pub struct AuditJob {
    pub since: Timestamp,
    pub org: Option<OrgId>,
    pub kind: Option<Kind>,
    pub id: Option<ObjectId>,
    pub command_id: Option<String>,
    /// The requester: `requested_by` of the command, or the user that published it.
    pub requested_by: Option<String>,
    /// Who reads the records.
    pub by: String,
    pub form: OutputFormat,
}

/// Why the records cannot be read.
#[derive(Debug, Error)]
pub enum AuditError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("cannot publish to {queue}: {0}", queue = names::AUDIT)]
    Publish(#[from] PublishError),
    #[error("{queue} does not answer within {0:?}", queue = names::AUDIT)]
    Silent(Duration),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl AuditJob {
    fn wants(&self, record: &CallRecord<'_>) -> bool {
        let asked = |name: &str| {
            [&record.requested_by, &record.published_by]
                .iter()
                .any(|by| by.as_deref() == Some(name))
        };
        record.at >= self.since
            && self.org.as_ref().is_none_or(|org| org.as_str() == record.org_id)
            && self.kind.is_none_or(|kind| kind.as_str() == record.kind)
            && self.id.as_ref().is_none_or(|id| id.as_str() == record.id)
            && self.command_id.as_ref().is_none_or(|id| *id == record.command_id)
            && self.requested_by.as_deref().is_none_or(asked)
    }
}

/// Prints the selected records, the oldest first.
///
/// # Errors
/// [`AuditError`].
pub async fn run(job: &AuditJob, url: &AmqpSource, tls: &TlsFiles) -> Result<(), AuditError> {
    let reading = Connection::open(url, tls, "audit").await?;
    let publisher = Publisher::new(Connection::open(url, tls, "audit").await?);
    let mut reader =
        StreamReader::open(&reading, names::AUDIT.into(), StartAt::Moment(job.since)).await?;
    let (at, pid) = (Timestamp::now(), std::process::id());
    let name = derived(&[format!("{at}/{pid}").as_bytes()]).to_string();
    let end = AuditEntry::Read { read_by: job.by.clone(), at, reader: name.clone() };
    publisher.publish(&end.publication()).await?;
    let (mut out, mut rows) = (io::stdout().lock(), vec![HEADING.map(str::to_owned)]);
    loop {
        let next = timeout(PATIENCE, reader.next_body()).await;
        let body = next.map_err(|_| AuditError::Silent(PATIENCE))??;
        let calls = match AuditEntry::read(&body) {
            Some(AuditEntry::Calls(calls)) => calls,
            Some(AuditEntry::Read { reader, .. }) if reader == name => break,
            _ => continue,
        };
        for record in calls.iter().filter(|record| job.wants(record)) {
            match job.form {
                OutputFormat::Json => {
                    let line = serde_json::to_string(record).map_err(io::Error::from)?;
                    writeln!(out, "{line}")?;
                }
                OutputFormat::Text => rows.push(row(record)),
            }
        }
    }
    if job.form == OutputFormat::Text {
        if rows.len() == 1 {
            writeln!(out, "no destructive call is on record since {}", time::text(job.since))?;
        } else {
            write(&mut out, &rows, &[])?;
        }
    }
    drop(out);
    reading.close().await;
    publisher.connection().close().await;
    Ok(())
}

const HEADING: [&str; 7] =
    ["WHEN", "KIND", "ORGANISATION", "OBJECT", "ANSWER", "ASKED BY", "COMMAND"];

fn row(record: &CallRecord<'_>) -> [String; 7] {
    let by = [&record.requested_by, &record.published_by];
    let by: Vec<_> = by.into_iter().flatten().map(|by| printable(by)).collect();
    [
        time::text(record.at),
        record.kind.to_string(),
        record.org_id.to_string(),
        record.id.to_string(),
        printable(&record.answer),
        by.join(", "),
        printable(&record.command_id),
    ]
}
