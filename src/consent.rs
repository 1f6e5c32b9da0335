//! Asks a person before anything is done that cannot be taken back.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Where a person is, whatever standard input and standard error are.
const TERMINAL: &str = "/dev/tty";

/// Whether a person must agree first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Ask at the terminal.
    Ask,
    /// Given on the command line, or nobody is there to be asked.
    Given,
}

/// Whether a person is at a terminal who can be asked, even if standard input is a list of ids.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() || (io::stderr().is_terminal() && File::open(TERMINAL).is_ok())
}

/// Asks, where that is needed. A signal is a no.
pub async fn agrees(consent: Consent, what: &str, stop: &CancellationToken) -> bool {
    if consent == Consent::Given {
        return true;
    }
    let question = format!("{what}Go on? [y/N] ");
    let (sender, answer) = oneshot::channel();
    // A thread of its own: a read from a terminal cannot be interrupted, and must not hold up the
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

/// The terminal itself is asked, because standard input may be the list, or that of a loop in a
/// script.
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
