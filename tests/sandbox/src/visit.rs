//! One API request from its arrival to its last byte: into the ledger, through the faults, to the
//! state, and to the answer. `visit` shows all steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::{HeaderMap, Request, Response};

use crate::answers::{self, Cut};
use crate::api::{self, Call};
use crate::fault_effects::{Effect, Moment};
use crate::faults::Plan;
use crate::ledger::Standing;
use crate::normal_answers::Answer;
use crate::sandbox::Sandbox;

/// `Err` cuts the connection.
pub(crate) async fn visit(
    sandbox: &Arc<Sandbox>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let call = Call::read(&head);
    let mut visit = Visit::arrive(sandbox, &call, &head.headers);
    visit.read(body).await;
    let plan = visit.apply_disposition(&call);

    pause(plan.latency_before).await;
    let ending = match plan.answering {
        None => Ending::Honest(visit.perform(&call)),
        Some(effect) if effect.moment == Moment::AfterEffect => {
            visit.perform(&call);
            Ending::Scripted(effect)
        }
        Some(effect) => Ending::Scripted(effect),
    };
    pause(plan.latency_after).await;
    match ending {
        Ending::Honest(answer) => Ok(visit.answer(&answer)),
        Ending::Scripted(effect) => {
            if let Some(status) = answers::promised_status(&effect) {
                visit.note_status(status);
            }
            answers::scripted(&effect, visit).await
        }
    }
}

enum Ending {
    Honest(Answer),
    Scripted(Arc<Effect>),
}

/// A request that is being handled. It ends when this is dropped: also if the client disconnects
/// and hyper drops the future, or when the last byte of a streamed body was sent.
struct Visit {
    sandbox: Arc<Sandbox>,
    seq: u64,
    is_answered: bool,
}

impl Visit {
    fn arrive(sandbox: &Arc<Sandbox>, call: &Call, headers: &HeaderMap) -> Self {
        let standing = {
            let state = sandbox.state();
            let known = call.org_id.as_ref().zip(call.task_id.as_ref());
            let is_task_known =
                known.and_then(|(org_id, task_id)| state.task(org_id, task_id)).is_some();
            Standing { is_authorised: call.is_authorised(&state), is_task_known }
        };
        let seq = sandbox.ledger().arrive(call, headers, standing);
        tracing::debug!(seq, method = %call.method, path = %call.path, "request");
        Self { sandbox: Arc::clone(sandbox), seq, is_answered: false }
    }

    /// Reads and discards the body; what can no longer be read is not counted.
    async fn read(&self, mut body: Incoming) {
        if body.is_end_stream() {
            return;
        }
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        self.sandbox.ledger().note_body(self.seq, bytes);
    }

    fn apply_disposition(&self, call: &Call) -> Plan {
        let plan = self.sandbox.faults().plan_for(call, Instant::now());
        if let Some(fault) = plan.fault {
            self.sandbox.ledger().note_fault(self.seq, fault);
        }
        plan
    }

    fn perform(&self, call: &Call) -> Answer {
        let answer = api::perform(&mut self.sandbox.state(), call);
        if let Some(change) = answer.change {
            self.sandbox.ledger().note_change(self.seq, change);
        }
        answer
    }

    fn answer(&mut self, answer: &Answer) -> Response<Body> {
        let response = answers::normal(answer);
        self.note_status(response.status().as_u16());
        response
    }

    /// Before the first byte of the answer is sent, so that a client that has the answer finds it
    /// in the ledger.
    fn note_status(&mut self, status: u16) {
        self.is_answered = true;
        self.sandbox.ledger().note_status(self.seq, status);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut ledger = self.sandbox.ledger();
        if !self.is_answered {
            ledger.note_no_answer(self.seq);
        }
        ledger.leave();
    }
}

async fn pause(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}
