//! Events of native threads on their way to an event loop.

use std::mem::size_of;
use std::sync::Arc;

use hybridloop_sync::WakingQueue;

use crate::bus::KeyListener;
use crate::channel::ChannelListener;
use crate::job::batch::BatchListener;
use crate::job::{Job, JobListener};
use crate::memory::block::View;

/// An event in an [`EventQueue`].
#[derive(Debug)]
pub enum Event {
    /// [`Job::take_progress`] has changed.
    Progress(Arc<Job>),
    /// The kernel has emitted values: [`Job::notice_items`], then [`Job::take_item`].
    Items(Arc<Job>),
    /// The job has a result and no longer uses its buffers. It is the last event of the job.
    Done(Arc<Job>),
    /// All jobs of the batch with this number are done.
    Batch(u64),
    /// The key of the watch with this token was sealed.
    Sealed(u64, Box<View>),
    /// The bus of the watch with this token was closed.
    Closed(u64),
    /// The channel with this number is readable.
    Readable(u64),
}

/// The queue allocates a block for 31 events where it must not fail: such a block fits into a slot of the reserve of the binding's
/// allocator, which has 1,024 bytes.
const _: () = assert!(31 * (size_of::<Event>() + size_of::<usize>()) + size_of::<usize>() <= 1024);

/// The events for one event loop, in order, with one wake-up for many.
pub type EventQueue = WakingQueue<Event>;

impl JobListener for EventQueue {
    fn progress(&self, job: &Arc<Job>) {
        self.push(Event::Progress(job.clone()));
    }

    fn items(&self, job: &Arc<Job>) {
        self.push(Event::Items(job.clone()));
    }

    fn done(&self, job: &Arc<Job>) {
        self.push(Event::Done(job.clone()));
    }
}

impl BatchListener for EventQueue {
    fn batch_done(&self, batch: u64) {
        self.push(Event::Batch(batch));
    }
}

impl KeyListener for EventQueue {
    fn sealed(&self, token: u64, view: &View) {
        self.push(Event::Sealed(token, Box::new(view.clone())));
    }

    fn closed(&self, token: u64) {
        self.push(Event::Closed(token));
    }
}

impl ChannelListener for EventQueue {
    fn readable(&self, channel: u64) {
        self.push(Event::Readable(channel));
    }
}
