//! What native threads tell to whoever waits.

use std::sync::Arc;

use hybridloop_sync::WakingQueue;

use crate::job::Job;
use crate::memory::block::View;
use crate::value::Value;

/// What an [`EventQueue`] carries.
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

/// Events from native threads to a loop, in order, with one wake-up for many.
pub type EventQueue = WakingQueue<Event>;

impl crate::bus::Notify for EventQueue {
    fn sealed(&self, token: u64, view: &View) {
        self.push(Event::Sealed(token, view.clone()));
    }

    fn closed(&self, token: u64) {
        self.push(Event::Closed(token));
    }
}

impl crate::channel::Arrival for EventQueue {
    fn arrived(&self, channel: u64) {
        self.push(Event::Arrived(channel));
    }
}
