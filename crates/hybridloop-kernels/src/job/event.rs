//! What native threads tell to whoever waits.

use std::sync::Arc;

use crate::completion_queue::Mailbox;
use crate::job::Job;
use crate::memory::block::View;
use crate::value::Value;

/// What a mailbox carries.
#[derive(Debug)]
pub enum Event {
    /// [`Job::take_progress`] has news.
    Progress(Arc<Job>),
    /// The kernel has emitted a value.
    Item(Arc<Job>, Value),
    /// The job has an outcome, and its buffers are no longer used. Comes after everything else of the job.
    Done(Arc<Job>),
    /// Every job of the batch with that number is done.
    Batch(u64),
    /// The key of a watch was sealed.
    Sealed(u64, View),
    /// The bus of a watch was closed.
    Closed(u64),
    /// A channel has something.
    Arrived(u64),
}

impl crate::bus::Notify for Mailbox<Event> {
    fn sealed(&self, token: u64, view: &View) {
        self.post(Event::Sealed(token, view.clone()));
    }

    fn closed(&self, token: u64) {
        self.post(Event::Closed(token));
    }
}

impl crate::channel::Arrival for Mailbox<Event> {
    fn arrived(&self, channel: u64) {
        self.post(Event::Arrived(channel));
    }
}
