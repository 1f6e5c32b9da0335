//! How deep the queues are.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::Metrics;

impl Metrics {
    /// What lies ready in a queue; in a delay queue, by its kind and delay too.
    pub fn set_queue(&self, queue: &str, messages: u32) {
        if let Some((kind, delay)) = queue.split_once(".wait.") {
            let labels = [("kind", kind.to_owned()), ("rung", delay.to_owned())];
            self.waiting.get_or_create(&labels).set(messages.into());
        }
        self.queues.get_or_create(&[("queue", queue.to_owned())]).set(messages.into());
        let mut depths = self.depths.lock().unwrap_or_else(PoisonError::into_inner);
        depths.insert(queue.to_owned(), messages);
    }

    /// What lay ready in each queue when it was last looked at.
    pub fn queues(&self) -> BTreeMap<String, u32> {
        self.depths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
