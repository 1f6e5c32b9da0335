//! The effects of a fault on a request, and their JSON form. An invalid description is refused here
//! with a message that says why, so an effect is always valid.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
};
use hyper::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

const NOT_FOUND_BODY: &[u8] =
    br#"{"error":true,"message":"Resource not found","code":"RESOURCE_NOT_FOUND"}"#;

/// A validated effect.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) latency: Duration,
    pub(crate) moment: Moment,
    /// `None`: latency and nothing else.
    pub(crate) reply: Option<Reply>,
}

/// Whether the fault applies before or after the call is carried out. Before means that the call is
/// never carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moment {
    BeforeEffect,
    AfterEffect,
}

/// The reply in place of the normal answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Canned(Canned),
    Nothing,
    Hang,
    Garbage,
    Endless { canned: Canned, bytes: u64 },
    Drip { canned: Canned, every: Duration },
    Truncated(Canned),
}

#[derive(Debug)]
pub(crate) struct Canned {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// `Retry-After` as an HTTP-date, this long after the answer.
    pub(crate) retry_after_date: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the JSON as tests write it; `Effect` is the state machine"
)]
pub(crate) struct EffectSpec {
    status: Option<u16>,
    headers: Option<BTreeMap<String, String>>,
    body: Option<Value>,
    content_type: Option<String>,
    retry_after_date_ms: Option<u64>,
    latency_ms: Option<u64>,
    #[serde(default)]
    after_effect: bool,
    lose_answer: Option<Moment>,
    #[serde(default)]
    hang: bool,
    #[serde(default)]
    garbage: bool,
    endless_body_bytes: Option<u64>,
    drip_ms: Option<u64>,
    #[serde(default)]
    truncate_body: bool,
}

impl TryFrom<EffectSpec> for Effect {
    type Error = String;

    fn try_from(spec: EffectSpec) -> Result<Self, String> {
        if spec.lose_answer.is_some() && spec.after_effect {
            return Err("lose_answer already says when the fault applies: leave after_effect out"
                .to_owned());
        }
        let after = if spec.after_effect { Moment::AfterEffect } else { Moment::BeforeEffect };
        let effect = Self {
            latency: Duration::from_millis(spec.latency_ms.unwrap_or_default()),
            moment: spec.lose_answer.unwrap_or(after),
            reply: spec.reply()?,
        };
        if effect.reply.is_none() && effect.latency.is_zero() {
            return Err(
                "the effect does nothing: give a status, latency_ms or another effect".to_owned()
            );
        }
        Ok(effect)
    }
}

impl EffectSpec {
    fn reply(&self) -> Result<Option<Reply>, String> {
        self.refuse_contradictions()?;
        let reply = if self.lose_answer.is_some() {
            Reply::Nothing
        } else if self.hang {
            Reply::Hang
        } else if self.garbage {
            Reply::Garbage
        } else if let Some(bytes) = self.endless_body_bytes {
            Reply::Endless { canned: self.canned_with_body(b"")?, bytes }
        } else if let Some(every) = self.drip_ms {
            Reply::Drip {
                canned: self.canned_with_body(b" ")?,
                every: Duration::from_millis(every),
            }
        } else if self.truncate_body {
            Reply::Truncated(self.canned_with_body(NOT_FOUND_BODY)?)
        } else if self.describes_an_answer() {
            Reply::Canned(self.canned()?)
        } else {
            return Ok(None);
        };
        Ok(Some(reply))
    }

    fn refuse_contradictions(&self) -> Result<(), String> {
        let wordless = [self.lose_answer.is_some(), self.hang, self.garbage];
        let streaming =
            [self.endless_body_bytes.is_some(), self.drip_ms.is_some(), self.truncate_body];
        if wordless.iter().chain(&streaming).filter(|chosen| **chosen).count() > 1 {
            return Err("choose one of lose_answer, hang, garbage, endless_body_bytes, drip_ms, \
                        truncate_body"
                .to_owned());
        }
        if wordless.contains(&true) && self.describes_an_answer() {
            return Err("lose_answer, hang and garbage give no answer: they take no status, headers, body, \
                        content_type or retry_after_date_ms"
                .to_owned());
        }
        if self.endless_body_bytes.is_some() && self.body.is_some() {
            return Err("endless_body_bytes makes its own body".to_owned());
        }
        Ok(())
    }

    fn describes_an_answer(&self) -> bool {
        self.status.is_some()
            || self.headers.is_some()
            || self.body.is_some()
            || self.content_type.is_some()
            || self.retry_after_date_ms.is_some()
    }

    /// For effects that need a body: the status and the body, with a default body.
    fn canned_with_body(&self, default_body: &'static [u8]) -> Result<Canned, String> {
        let mut canned = self.canned_or(StatusCode::OK)?;
        if has_no_body(canned.status) {
            return Err(format!("{} carries no body", canned.status.as_u16()));
        }
        if canned.body.is_empty() {
            canned.body = Bytes::from_static(default_body);
        }
        if self.truncate_body && canned.body.len() < 2 {
            return Err("truncate_body needs a body of two bytes at the least".to_owned());
        }
        canned.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        Ok(canned)
    }

    fn canned(&self) -> Result<Canned, String> {
        if self.status.is_none() && self.retry_after_date_ms.is_none() {
            return Err("an answer needs a status".to_owned());
        }
        self.canned_or(StatusCode::TOO_MANY_REQUESTS)
    }

    fn canned_or(&self, default_status: StatusCode) -> Result<Canned, String> {
        let canned = Canned {
            status: self.status.map_or(Ok(default_status), final_status)?,
            headers: self.header_map()?,
            body: self.body.as_ref().map(body_bytes).unwrap_or_default(),
            retry_after_date: self.retry_after_date_ms.map(Duration::from_millis),
        };
        if has_no_body(canned.status) && !canned.body.is_empty() {
            return Err(format!("{} carries no body", canned.status.as_u16()));
        }
        if canned.retry_after_date.is_some() && canned.headers.contains_key(RETRY_AFTER) {
            return Err("give Retry-After or retry_after_date_ms, not both".to_owned());
        }
        Ok(canned)
    }

    fn header_map(&self) -> Result<HeaderMap, String> {
        let mut map = HeaderMap::new();
        for (name, value) in self.headers.iter().flatten() {
            let name =
                name.parse::<HeaderName>().map_err(|_| format!("not a header name: {name:?}"))?;
            if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                return Err(format!(
                    "{name} is the sandbox's own: see truncate_body and endless_body_bytes"
                ));
            }
            map.insert(name, header_value(value)?);
        }
        if let Some(content_type) = &self.content_type {
            map.insert(CONTENT_TYPE, header_value(content_type)?);
        } else if let Some(body) = &self.body {
            map.entry(CONTENT_TYPE).or_insert(default_content_type(body));
        }
        Ok(map)
    }
}

/// 1xx is not an answer, and hyper would not send it as one.
fn final_status(status: u16) -> Result<StatusCode, String> {
    StatusCode::from_u16(status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| format!("status must be 200 to 599, not {status}"))
}

fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn header_value(value: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(value).map_err(|_| format!("not a header value: {value:?}"))
}

fn body_bytes(body: &Value) -> Bytes {
    match body {
        Value::String(text) => Bytes::from(text.clone()),
        json => Bytes::from(json.to_string()),
    }
}

fn default_content_type(body: &Value) -> HeaderValue {
    HeaderValue::from_static(if body.is_string() {
        "text/plain; charset=utf-8"
    } else {
        "application/json"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn effect(json: Value) -> Result<Effect, String> {
        serde_json::from_value::<EffectSpec>(json).map_err(|error| error.to_string())?.try_into()
    }

    #[test]
    fn an_invalid_effect_is_refused() {
        for senseless in [
            json!({}),
            json!({"status": 99}),
            json!({"status": 204, "body": "x"}),
            json!({"statsu": 503}),
            json!({"body": "an answer without a status"}),
            json!({"hang": true, "garbage": true}),
            json!({"hang": true, "status": 503}),
            json!({"lose_answer": "after_effect", "after_effect": true}),
            json!({"drip_ms": 10, "status": 204}),
            json!({"truncate_body": true, "body": "x"}),
            json!({"status": 503, "headers": {"Content-Length": "5"}}),
            json!({"retry_after_date_ms": 1, "headers": {"retry-after": "5"}}),
        ] {
            assert!(effect(senseless.clone()).is_err(), "{senseless}");
        }
    }

    #[test]
    fn a_canned_answer_has_the_content_type_of_its_body_by_default() {
        for (json, content_type) in [
            (json!({"status": 500, "body": {"a": 1}}), "application/json"),
            (json!({"status": 500, "body": "oops"}), "text/plain; charset=utf-8"),
            (json!({"status": 403, "body": "<p>", "content_type": "text/html"}), "text/html"),
        ] {
            let Some(Reply::Canned(canned)) = effect(json).unwrap().reply else {
                panic!("not canned")
            };
            assert_eq!(canned.headers[CONTENT_TYPE], content_type);
        }
    }

    #[test]
    fn lose_answer_says_when_it_applies() {
        let lost = effect(json!({"lose_answer": "after_effect"})).unwrap();
        assert!(matches!((lost.moment, lost.reply), (Moment::AfterEffect, Some(Reply::Nothing))));
    }
}
