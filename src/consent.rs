//! Asks a person before anything irreversible.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The person's terminal, whatever standard input and standard error are.
const TERMINAL: &str = "/dev/tty";

/// Whether a person must agree first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Ask at the terminal.
    Ask,
    /// Given on the command line, or there is nobody to ask.
    Given,
}

/// Whether a person is at a terminal who can be asked, even if standard input is a list of ids.
pub(crate) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() || (io::stderr().is_terminal() && File::open(TERMINAL).is_ok())
}

/// Asks if needed. A signal counts as no.
pub(crate) async fn agrees(consent: Consent, what: &str, stop: &CancellationToken) -> bool {
    if consent == Consent::Given {
        return true;
    }
    let question = format!("{what}Go on? [y/N] ");
    let (sender, answer) = oneshot::channel();
    // Runs on its own thread: a read from a terminal cannot be interrupted, and must not delay the
    // end of the process.
    std::thread::spawn(move || sender.send(ask(&question).is_ok_and(|answer| is_yes(&answer))));
    tokio::select! {
        answer = answer => answer.unwrap_or(false),
        () = stop.cancelled() => {
            let _ = writeln!(io::stderr());
            false
        }
    }
}

/// Asks at the terminal itself, because standard input may be the list of ids or belong to a loop
/// in a script.
fn ask(question: &str) -> io::Result<String> {
    let mut answer = String::new();
    if let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open(TERMINAL) {
        terminal.write_all(question.as_bytes())?;
        BufReader::new(terminal).read_line(&mut answer)?;
    } else {
        io::stderr().write_all(question.as_bytes())?;
        io::stdin().read_line(&mut answer)?;
    }
    Ok(answer)
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim(), "y" | "Y" | "yes")
}
