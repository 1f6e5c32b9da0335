//! Programs that end with the test that has started them, also if it fails: nothing is left
//! running.

use std::future::ready;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::eventually_within;

/// How long a program may take to its end. It may have much to do, and the machine too.
const LONGEST_RUN: Duration = Duration::from_mins(3);

const LAST_LINES: usize = 50;

/// A running program, which ends with its owner.
pub(crate) struct Running {
    child: Child,
    said: Option<[JoinHandle<Vec<u8>>; 2]>,
}

impl Running {
    /// Nobody reads what it says until its output is asked for.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().expect("the program starts"), said: None }
    }

    /// What it says is read from the beginning: it may say more than a pipe holds.
    pub(crate) fn start_and_listen(command: &mut Command) -> Self {
        let mut running = Self::start(command);
        running.said = Some(running.listen());
        running
    }

    /// What it says, and how it exits. It must end by itself.
    pub(crate) async fn output(mut self) -> Output {
        let said = self.said.take().unwrap_or_else(|| self.listen());
        let ask = || ready(self.child.try_wait().unwrap());
        let status = eventually_within(LONGEST_RUN, "the end of the program", ask).await;
        let [stdout, stderr] = said.map(|reader| reader.join().unwrap());
        Output { status, stdout, stderr }
    }

    fn listen(&mut self) -> [JoinHandle<Vec<u8>>; 2] {
        [reading(self.child.stdout.take()), reading(self.child.stderr.take())]
    }
}

/// What a program says and how it exits.
pub(crate) async fn output(mut command: Command) -> Output {
    Running::start(&mut command).output().await
}

/// On a thread of its own: a pipe that nobody reads would hold the program up.
fn reading(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut said).unwrap();
        }
        said
    })
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // If the test has failed, the end of the log may say why.
        if let (true, Some([_, log])) = (thread::panicking(), self.said.take()) {
            let log = String::from_utf8_lossy(&log.join().unwrap_or_default()).into_owned();
            let last: Vec<_> = log.lines().rev().take(LAST_LINES).collect();
            last.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
