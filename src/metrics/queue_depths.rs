//! How deep the queues are.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::Metrics;

impl Metrics {
    /// Sets the ready messages of a queue; for a delay queue also by kind and delay.
    pub fn set_queue(&self, queue: &str, messages: u32) {
        if let Some((kind, delay)) = queue.split_once(".wait.") {
            let labels = [("kind", kind.to_owned()), ("rung", delay.to_owned())];
            self.waiting.get_or_create(&labels).set(messages.into());
        }
        self.queues.get_or_create(&[("queue", queue.to_owned())]).set(messages.into());
        let mut depths = self.depths.lock().unwrap_or_else(PoisonError::into_inner);
        depths.insert(queue.to_owned(), messages);
    }

    /// The ready messages of each queue at the last look.
    pub fn queues(&self) -> BTreeMap<String, u32> {
        self.depths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
