//! A stand-in for the API: a real server that answers each call as a test's closure says, and
//! records who called when.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use url::Url;

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Below the base URL.
    pub(crate) path: String,
    pub(crate) org: String,
    /// Id of the task, or of another object. Empty where the path names none.
    pub(crate) task: String,
    /// Calls of the same path before this one.
    pub(crate) earlier: usize,
    pub(crate) at: Instant,
}

impl Call {
    fn read(request: &Request, before: &[Self]) -> Self {
        let mut path =
            request.uri().path().split('/').skip_while(|part| *part != "organizations").skip(1);
        let org = path.next().unwrap_or_default().to_owned();
        let task = path.nth(1).unwrap_or_default().to_owned();
        let method = request.method().to_string();
        let path = request.uri().path().trim_start_matches("/api").to_owned();
        let earlier = before.iter().filter(|call| call.path == path).count();
        Self { method, path, org, task, earlier, at: Instant::now() }
    }

    pub(crate) fn is_get(&self) -> bool {
        self.method == "GET"
    }
}

/// What the stand-in answers.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    delay: Duration,
}

impl Reply {
    /// Without a body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new(), delay: Duration::ZERO }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self { body: body.to_string(), ..Self::status(status) }
            .header("content-type", "application/json")
    }

    pub(crate) fn html(status: u16) -> Self {
        let body = "<html><h1>nginx</h1></html>".to_owned();
        Self { body, ..Self::status(status) }.header("content-type", "text/html")
    }

    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self { body: text.to_owned(), ..Self::status(status) }.header("content-type", "text/plain")
    }

    /// What the API says of something that it does not have.
    pub(crate) fn no_such_resource() -> Self {
        let body =
            json!({"error": true, "message": "Resource not found", "code": "RESOURCE_NOT_FOUND"});
        Self::json(404, &body)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    fn response(self) -> Response {
        let head = self.headers.into_iter().fold(
            Response::builder().status(self.status),
            |head, header| {
                let (name, value) = header;
                head.header(name, value)
            },
        );
        head.body(Body::from(self.body)).expect("a reply that HTTP can carry")
    }
}

type Answers = Arc<dyn Fn(&Call) -> Reply + Send + Sync>;

struct Shared {
    answers: Mutex<Answers>,
    calls: Mutex<Vec<Call>>,
    in_flight: Mutex<InFlight>,
}

#[derive(Clone, Copy, Default)]
struct InFlight {
    now: usize,
    most: usize,
}

/// A running stand-in; takes no more connections once it is dropped.
pub(crate) struct StandIn {
    base_url: Url,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

impl StandIn {
    pub(crate) async fn start(answers: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let (calls, in_flight) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { answers: Mutex::new(Arc::new(answers)), calls, in_flight });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("the address of a listener");
        let base_url = format!("http://{address}/api").parse().expect("a URL");
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async { axum::serve(listener, app).await }).abort_handle();
        Self { base_url, shared, serving }
    }

    pub(crate) fn base_url(&self) -> Url {
        self.base_url.clone()
    }

    /// From the next call on.
    pub(crate) fn now_answers(&self, answers: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        *self.shared.answers.lock().unwrap() = Arc::new(answers);
    }

    /// From the next call on every task is there and is deleted.
    pub(crate) fn heal(&self) {
        self.now_answers(|_| Reply::status(204));
    }

    /// All calls so far, in the order in which they came.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub(crate) fn calls_of(&self, org: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.org == org).collect()
    }

    /// How many calls wait for their answer at this moment.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.in_flight.lock().unwrap().now
    }

    /// The most calls that have waited for their answers at the same time.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.in_flight.lock().unwrap().most
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// How long it was from the first of these calls to the last.
pub(crate) fn span(calls: &[Call]) -> Duration {
    let ends = calls.first().zip(calls.last());
    ends.map_or(Duration::ZERO, |(first, last)| last.at - first.at)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let _in_flight = Entered::now(&shared);
    let answers = Arc::clone(&shared.answers.lock().unwrap());
    let reply = {
        let mut calls = shared.calls.lock().unwrap();
        let call = Call::read(&request, &calls);
        let reply = answers(&call);
        calls.push(call);
        reply
    };
    tokio::time::sleep(reply.delay).await;
    reply.response()
}

/// Leaves when dropped, so also when the caller has gone and nobody waits for the answer any more.
struct Entered(Arc<Shared>);

impl Entered {
    fn now(shared: &Arc<Shared>) -> Self {
        let mut in_flight = shared.in_flight.lock().unwrap();
        in_flight.now += 1;
        in_flight.most = in_flight.most.max(in_flight.now);
        Self(Arc::clone(shared))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.in_flight.lock().unwrap().now -= 1;
    }
}
