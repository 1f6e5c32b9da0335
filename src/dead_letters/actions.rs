//! The actions themselves. Each letter is published or written first, and removed when that is certain.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use lapin::uri::AMQPUri;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::desk::{Desk, Fate, Pass};
use super::lines::{Lines, json_line, read_lines};
use super::selection::{Groups, Selection};
use super::{Bulk, Consent, DeadJob, DeadLettersError, Done, Form, Limit, print};
use crate::messages::audit::Audit;
use crate::messages::{Letter, names};
use crate::rabbitmq::letters::HeldLetter;
use crate::rabbitmq::tls::TlsFiles;

type Result<T> = std::result::Result<T, DeadLettersError>;

/// Does what is asked for. `stop` ends it after the letter in hand.
///
/// # Errors
/// [`DeadLettersError`]: what was not done is as it was.
pub async fn run(job: DeadJob, uri: &AMQPUri, tls: &TlsFiles, stop: CancellationToken) -> Result<Done> {
    let lines = match &job {
        DeadJob::Import(file, ..) => read_lines(file.as_deref())?,
        _ => Vec::new(),
    };
    let session = Session { desk: Desk::open(uri, tls).await?, stop, began: Timestamp::now() };
    let done = match job {
        DeadJob::List(selection, form) => session.list(&selection, form).await,
        DeadJob::Show(selection, form, limit) => session.show(&selection, form, limit).await,
        DeadJob::Export(selection, file, limit) => session.export(&selection, file.as_deref(), limit).await,
        DeadJob::Import(_, consent, by) => session.import(&lines, consent, by).await,
        DeadJob::Replay(selection, bulk) => session.replay(&selection, &bulk).await,
        DeadJob::Discard(selection, bulk, file, why) => session.discard(&selection, &bulk, &file, &why).await,
    };
    session.desk.close().await;
    done
}

struct Session {
    desk: Desk,
    stop: CancellationToken,
    began: Timestamp,
}

impl Session {
    async fn list(&self, selection: &Selection, form: Form) -> Result<Done> {
        let (groups, done) = self.survey(selection).await?;
        let groups = groups.all();
        let mut out = io::stdout().lock();
        let written = match form {
            Form::Machine => groups.iter().try_for_each(|group| json_line(&mut out, group)),
            Form::Person if groups.is_empty() => writeln!(out, "no dead letters"),
            Form::Person => print::groups(&mut out, &groups, self.began),
        };
        written.map_err(DeadLettersError::Output)?;
        Ok(done)
    }

    async fn survey(&self, selection: &Selection) -> Result<(Groups, Done)> {
        let mut groups = Groups::default();
        let look = async |held: HeldLetter| {
            if selection.takes(&held.letter, self.began) {
                groups.add(&held.letter);
            }
            Ok(Fate::Stays(held))
        };
        let pass = self.desk.go_through(&self.stop, look).await?;
        Ok((groups, done(pass)))
    }

    async fn show(&self, selection: &Selection, form: Form, limit: Limit) -> Result<Done> {
        self.each(selection, limit, |letter| {
            let mut out = io::stdout().lock();
            let written = match form {
                Form::Machine => json_line(&mut out, &print::exported(letter)),
                Form::Person => print::letter(&mut out, letter, self.began),
            };
            written.map_err(DeadLettersError::Output)
        })
        .await
    }

    async fn export(&self, selection: &Selection, file: Option<&Path>, limit: Limit) -> Result<Done> {
        let Some(path) = file else { return self.show(selection, Form::Machine, limit).await };
        let mut lines = Lines::append_to(path)?;
        let done = self.each(selection, limit, |letter| lines.write(&print::exported(letter))).await?;
        lines.sync()?;
        Ok(done)
    }

    /// Shows the letters that are meant to `use_it`; all stay.
    async fn each(
        &self,
        selection: &Selection,
        limit: Limit,
        mut use_it: impl FnMut(&Letter) -> Result<()>,
    ) -> Result<Done> {
        let mut left = limit.unwrap_or(usize::MAX);
        let look = async |held: HeldLetter| {
            if selection.takes(&held.letter, self.began) {
                use_it(&held.letter)?;
                left -= 1;
            }
            Ok(if left == 0 { Fate::Enough(held) } else { Fate::Stays(held) })
        };
        Ok(done(self.desk.go_through(&self.stop, look).await?))
    }

    async fn replay(&self, selection: &Selection, bulk: &Bulk) -> Result<Done> {
        let Some(letters) = self.agreed("replay", selection, bulk).await? else {
            return Ok(Done::Interrupted);
        };
        let publish =
            async |letter: &Letter| self.desk.publish(&letter.replay(&bulk.by, Timestamp::now())).await;
        let (number, done) = self.remove_after(selection, bulk, letters, publish).await;
        self.close_the_books(names::REPLAYED_EVENT, selection, &bulk.by, None, number, done).await
    }

    async fn discard(&self, selection: &Selection, bulk: &Bulk, file: &Path, why: &str) -> Result<Done> {
        let mut lines = Lines::append_to(file)?;
        let Some(letters) = self.agreed("discard", selection, bulk).await? else {
            return Ok(Done::Interrupted);
        };
        let write = async |letter: &Letter| {
            let discarded = json!({"at": Timestamp::now(), "by": bulk.by, "why": why});
            let mut line = serde_json::to_value(print::exported(letter)).unwrap_or_default();
            line["discarded"] = discarded;
            lines.write(&line)?;
            lines.sync()
        };
        let (number, done) = self.remove_after(selection, bulk, letters, write).await;
        let why = Some(why.to_owned());
        self.close_the_books(names::DISCARDED_EVENT, selection, &bulk.by, why, number, done).await
    }

    /// Says what will be done, and asks. Nothing is in hand meanwhile. `None`: nothing is to be done.
    async fn agreed(&self, verb: &str, selection: &Selection, bulk: &Bulk) -> Result<Option<usize>> {
        let (groups, surveyed) = self.survey(selection).await?;
        let letters = groups.letters().min(bulk.limit.unwrap_or(usize::MAX));
        let _ = print::groups(&mut io::stderr(), &groups.all(), self.began);
        let _ = writeln!(io::stderr(), "{verb} {letters} of them");
        Ok((surveyed == Done::Wholly && agrees(bulk.consent, &self.stop).await).then_some(letters))
    }

    /// # A letter is removed only when it is safe elsewhere
    ///
    /// `keep` has it confirmed by the broker, or on the disk, before it is removed. A kill in between leaves it in both places.
    /// What dies again meanwhile is left alone.
    async fn remove_after(
        &self,
        selection: &Selection,
        bulk: &Bulk,
        letters: usize,
        mut keep: impl AsyncFnMut(&Letter) -> Result<()>,
    ) -> (usize, Result<Done>) {
        let (bar, mut pace) = (progress_bar(letters), Pace::new(bulk));
        let mut number = 0;
        loop {
            let look = async |held: HeldLetter| {
                let is_new = held.letter.failed_at.is_some_and(|time| time > self.began);
                if number == letters {
                    return Ok(Fate::Enough(held));
                }
                if is_new || !selection.takes(&held.letter, self.began) || !pace.wait(&self.stop).await {
                    return Ok(Fate::Stays(held));
                }
                keep(&held.letter).await?;
                number += 1;
                bar.inc(1);
                if !held.remove().await {
                    bar.suspend(|| warn!("a letter could not be removed: it is there still, and done with"));
                }
                Ok(Fate::Removed)
            };
            match self.desk.go_through(&self.stop, look).await {
                Ok(Pass::TimeIsUp) => {}
                Ok(pass) => break (number, Ok(done(pass))),
                Err(trouble) => break (number, Err(trouble)),
            }
        }
    }

    async fn import(&self, lines: &[String], consent: Consent, by: String) -> Result<Done> {
        let mut letters = Vec::new();
        for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty()) {
            letters.push(print::imported(line).map_err(|why| DeadLettersError::Line { number, why })?);
        }
        let _ = writeln!(io::stderr(), "import {} dead letters", letters.len());
        if !agrees(consent, &self.stop).await {
            return Ok(Done::Interrupted);
        }
        let bar = progress_bar(letters.len());
        let (mut number, mut done) = (0, Ok(Done::Wholly));
        for letter in &letters {
            if self.stop.is_cancelled() {
                done = Ok(Done::Interrupted);
                break;
            }
            if let Err(trouble) = self.desk.publish(&letter.again()).await {
                done = Err(trouble);
                break;
            }
            number += 1;
            bar.inc(1);
        }
        self.close_the_books(names::IMPORTED_EVENT, &Selection::default(), &by, None, number, done).await
    }

    /// The audit event, whatever came of the action; and the last line.
    async fn close_the_books(
        &self,
        kind: &'static str,
        selection: &Selection,
        by: &str,
        why: Option<String>,
        letters: usize,
        done: Result<Done>,
    ) -> Result<Done> {
        let interrupted = !matches!(done, Ok(Done::Wholly));
        let selection = serde_json::to_value(selection).unwrap_or(Value::Null);
        let audit = Audit { kind, by: by.to_owned(), why, selection, letters, interrupted };
        info!(kind, by, letters, interrupted, "dead letters: done");
        let told = self.desk.publish(&audit.event(self.began, Timestamp::now())).await;
        done.and_then(|done| told.map(|()| done))
    }
}

fn done(pass: Pass) -> Done {
    if pass == Pass::Through { Done::Wholly } else { Done::Interrupted }
}

/// Asks, where that is needed. A signal is a no.
async fn agrees(consent: Consent, stop: &CancellationToken) -> bool {
    if consent == Consent::Given {
        return true;
    }
    let ask = || {
        let _ = write!(io::stderr(), "Go on? [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    };
    tokio::select! {
        answer = tokio::task::spawn_blocking(ask) => answer.unwrap_or(false),
        () = stop.cancelled() => {
            // Nothing is in hand; and whoever reads from a terminal cannot be told to stop.
            let _ = writeln!(io::stderr());
            std::process::exit(1)
        }
    }
}

/// Not more than so many a second.
struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    fn new(bulk: &Bulk) -> Self {
        let gap = bulk.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self { gap, next: Instant::now() }
    }

    /// `false`: told to stop meanwhile.
    async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let due = self.next;
        self.next = due.max(Instant::now()) + self.gap;
        tokio::select! { biased; () = stop.cancelled() => false, () = sleep_until(due) => true }
    }
}

/// On a terminal only.
fn progress_bar(letters: usize) -> ProgressBar {
    let bar =
        if io::stderr().is_terminal() { ProgressBar::new(letters as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} letters, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
