//! The sandbox as its users see it: the real binary, over real sockets, read byte by byte.

#![allow(clippy::unwrap_used, reason = "a test file: a panic is how it fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const ORG: &str = "0123456789abcdef0123456789abcdef";
const TASK: &str = "00000000000000000000000000000001";
const CLIENT: &str = "X-Tallyfy-Client: APIClient";
const TOKEN: &str = "Authorization: Bearer good";

struct Sandbox {
    process: Child,
    address: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Sandbox {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tallyfy-sandbox"))
            .args(["--listen", "127.0.0.1:0", "--org", ORG, "--token", "good", "--tasks", "3"])
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sandbox starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("listening on http://").expect("its address").to_owned();
        Self { process, address }
    }

    /// All bytes until the sandbox closes the connection.
    fn exchange(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let headers = headers.iter().fold(String::new(), |all, header| all + header + "\r\n");
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n{headers}");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let bytes = String::from_utf8(self.exchange(method, path, headers, body)).unwrap();
        let (head, body) = bytes.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn delete(&self, task: &str) -> Answer {
        self.ask("DELETE", &delete_path(task), &[CLIENT, TOKEN], "")
    }

    fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, &format!("/_sandbox/{path}"), &[], &body.to_string());
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    fn script(&self, fault: &Value) {
        self.control("POST", "faults", fault);
    }

    fn state_of(&self, task: &str) -> Value {
        self.control("GET", &format!("tasks/{ORG}/{task}"), &json!(null))["state"].clone()
    }

    fn ledger(&self) -> Value {
        self.control("GET", "ledger", &json!(null))
    }

    fn summary(&self) -> Value {
        self.control("GET", "summary", &json!(null))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn delete_path(task: &str) -> String {
    format!("/api/organizations/{ORG}/tasks/{task}/delete")
}

#[test]
fn a_task_is_deleted_once() {
    let sandbox = Sandbox::start();
    let (first, second) = (sandbox.delete(TASK), sandbox.delete(TASK));
    assert_eq!((first.status, first.body.as_str()), (204, ""));
    assert_eq!(second.status, 404);
    assert!(second.body.contains("RESOURCE_NOT_FOUND"));
    assert!(first.head.contains("x-request-id: ") && second.head.contains("x-request-id: "));
}

#[test]
fn a_wrong_token_is_401() {
    let sandbox = Sandbox::start();
    let answer =
        sandbox.ask("DELETE", &delete_path(TASK), &[CLIENT, "Authorization: Bearer bad"], "");
    assert_eq!(answer.status, 401);
    assert_eq!(sandbox.state_of(TASK), "present");
}

#[test]
fn a_token_may_be_revoked_for_one_organisation() {
    let sandbox = Sandbox::start();
    sandbox.control("PUT", "tokens", &json!({"org_id": ORG, "tokens": ["new"]}));
    assert_eq!(sandbox.delete(TASK).status, 401);
    let answer =
        sandbox.ask("DELETE", &delete_path(TASK), &[CLIENT, "Authorization: Bearer new"], "");
    assert_eq!(answer.status, 204);
}

#[test]
fn without_the_client_header_the_endpoint_is_not_found() {
    let answer = Sandbox::start().ask("DELETE", &delete_path(TASK), &[TOKEN], "");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("ENDPOINT_NOT_FOUND"));
}

#[test]
fn a_scripted_answer_is_given_as_often_as_scripted() {
    let sandbox = Sandbox::start();
    sandbox
        .script(&json!({"times": 2, "effect": {"status": 503, "headers": {"Retry-After": "3"}}}));
    let answers = [sandbox.delete(TASK), sandbox.delete(TASK), sandbox.delete(TASK)];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [503, 503, 204]);
    assert!(answers[0].head.contains("retry-after: 3"));
}

#[test]
fn a_lost_answer_sends_no_byte_and_deletes_the_task() {
    let sandbox = Sandbox::start();
    sandbox.script(&json!({"times": 1, "effect": {"lose_answer": "after_effect"}}));
    assert_eq!(sandbox.exchange("DELETE", &delete_path(TASK), &[CLIENT, TOKEN], ""), b"");
    assert_eq!(sandbox.state_of(TASK), "gone");
    assert_eq!(sandbox.summary()["by_status"], json!({"none": 1}));
}

#[test]
fn an_answer_lost_before_the_effect_leaves_the_task() {
    let sandbox = Sandbox::start();
    sandbox.script(&json!({"times": 1, "effect": {"lose_answer": "before_effect"}}));
    assert_eq!(sandbox.exchange("DELETE", &delete_path(TASK), &[CLIENT, TOKEN], ""), b"");
    assert_eq!(sandbox.state_of(TASK), "present");
}

#[test]
fn a_truncated_answer_is_shorter_than_its_content_length() {
    let sandbox = Sandbox::start();
    sandbox
        .script(&json!({"effect": {"truncate_body": true, "status": 404, "body": "0123456789"}}));
    let answer = sandbox.delete(TASK);
    assert_eq!((answer.status, answer.body.as_str()), (404, "01234"));
    assert!(answer.head.contains("content-length: 10"));
}

#[test]
fn garbage_is_not_http() {
    let sandbox = Sandbox::start();
    sandbox.script(&json!({"effect": {"garbage": true}}));
    let bytes = sandbox.exchange("DELETE", &delete_path(TASK), &[CLIENT, TOKEN], "");
    assert!(!bytes.is_empty() && !bytes.starts_with(b"HTTP"));
}

#[test]
fn a_retry_after_may_be_a_date_never_before_the_moment_asked_for() {
    let sandbox = Sandbox::start();
    sandbox.script(&json!({"effect": {"retry_after_date_ms": 3000, "status": 429}}));
    let asked = std::time::SystemTime::now();
    let head = sandbox.delete(TASK).head;
    let date = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    let date = httpdate::parse_http_date(&fix_case(date)).unwrap();
    let ahead = date.duration_since(asked).unwrap();
    assert!((3_000..4_500).contains(&ahead.as_millis()), "{ahead:?}");
}

/// `ask` reads the headers in lower case; a date must not be.
fn fix_case(date: &str) -> String {
    let title = |word: &str| word[..1].to_uppercase() + &word[1..];
    date.split(' ').map(title).collect::<Vec<_>>().join(" ").replace("Gmt", "GMT")
}

#[test]
fn a_hanging_request_is_in_flight_until_its_client_disconnects() {
    let sandbox = Sandbox::start();
    sandbox.script(&json!({"effect": {"hang": true, "after_effect": true}}));
    let mut stream = TcpStream::connect(&sandbox.address).unwrap();
    write!(
        stream,
        "DELETE {} HTTP/1.1\r\nHost: s\r\n{CLIENT}\r\n{TOKEN}\r\n\r\n",
        delete_path(TASK)
    )
    .unwrap();
    eventually(|| sandbox.state_of(TASK) == "gone");
    assert_eq!(sandbox.ledger()["requests"][0]["status"], json!(null));
    assert_eq!(sandbox.ledger()["in_flight"], 1);
    drop(stream);
    eventually(|| sandbox.ledger()["in_flight"] == 0);
}

#[test]
fn streams_last_until_they_end_or_the_client_disconnects() {
    let sandbox = Sandbox::start();
    sandbox.script(&json!({"times": 1, "effect": {"endless_body_bytes": 200_000, "status": 200}}));
    sandbox.script(&json!({"times": 1, "effect": {"drip_ms": 1, "status": 200}}));
    assert!(sandbox.delete(TASK).body.len() > 200_000);
    let mut stream = TcpStream::connect(&sandbox.address).unwrap();
    write!(stream, "DELETE {} HTTP/1.1\r\nHost: s\r\n\r\n", delete_path(TASK)).unwrap();
    stream.read_exact(&mut [0; 300]).unwrap();
    assert_eq!(sandbox.ledger()["in_flight"], 1);
    drop(stream);
    eventually(|| sandbox.ledger()["in_flight"] == 0);
}

#[test]
fn the_ledger_has_the_requests_and_what_was_done() {
    let sandbox = Sandbox::start();
    sandbox.delete(TASK);
    let ledger = sandbox.ledger();
    let entry = &ledger["requests"][0];
    for (member, value) in [
        ("seq", json!(1)),
        ("method", json!("DELETE")),
        ("path", json!(delete_path(TASK))),
        ("task_id", json!(TASK)),
        ("operation", json!("delete")),
        ("status", json!(204)),
        ("effect", json!("deleted")),
        ("fault", json!(null)),
    ] {
        assert_eq!(entry[member], value, "{member}");
    }
    assert_eq!(entry["headers"]["authorization"], "Bearer <ok>");
    assert_eq!((&ledger["in_flight"], &ledger["max_in_flight"]), (&json!(0), &json!(1)));
    assert_eq!(sandbox.control("GET", "ledger?since=1", &json!(null))["requests"], json!([]));
}

#[test]
fn the_summary_names_unexpected_requests() {
    let sandbox = Sandbox::start();
    sandbox.delete(TASK);
    sandbox.delete("never-registered");
    sandbox.ask("POST", "/api/elsewhere", &[CLIENT, TOKEN], "");
    let summary = sandbox.summary();
    let paths: Vec<_> =
        summary["unexpected"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
    assert_eq!(paths, [&json!(delete_path("never-registered")), &json!("/api/elsewhere")]);
    assert_eq!(summary["by_status"], json!({"204": 1, "404": 2}));
    assert_eq!(summary["tasks"], json!({"present": 2, "gone": 1}));
}

#[test]
fn an_invalid_fault_is_refused_with_a_message() {
    let answer =
        Sandbox::start().ask("POST", "/_sandbox/faults", &[], r#"{"effect":{"statsu":503}}"#);
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("statsu"), "{answer:?}");
}

#[test]
fn it_ends_with_its_standard_input() {
    let mut sandbox = Sandbox::start();
    drop(sandbox.process.stdin.take());
    assert!(sandbox.process.wait().unwrap().success());
}

fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to hold");
        std::thread::sleep(Duration::from_millis(5));
    }
}
