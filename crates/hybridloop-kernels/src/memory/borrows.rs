//! Which memory live jobs use. An extent may be read by any number of jobs, or written by one.
//!
//! There is one [`BorrowTracker`] for all engines of a process, because a buffer may be passed to any of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hybridloop_sync::fork::{PerProcess, Process};

/// What a job does with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It reads memory that nobody can write to, such as that of a `bytes` object. This is not tracked.
    ReadImmutable,
    Read,
    Write,
}

/// A range of addresses that a job uses. It is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub start: usize,
    pub end: usize,
    pub access: Access,
}

impl Extent {
    fn is_written(self) -> bool {
        self.access == Access::Write
    }

    fn is_tracked(self) -> bool {
        self.access != Access::ReadImmutable
    }

    fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Why extents cannot be borrowed; the indices are those of the slice of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// The extent is written, and another one of the same job overlaps it.
    SameJob(usize),
    /// A job with this number writes to the extent.
    Written(usize, u64),
    /// The extent is written, and another job reads it.
    Read(usize),
}

#[derive(Default)]
struct Borrows {
    /// The end of each written extent and the job that writes, by start. None overlaps another.
    written: BTreeMap<usize, (usize, u64)>,
    /// How many jobs read each extent, by start and end.
    read: BTreeMap<(usize, usize), usize>,
    /// The length of the longest extent that is read, or more.
    longest: usize,
}

impl Borrows {
    fn writer(&self, of: Extent) -> Option<u64> {
        // Of the extents that start before the end of `of`, the last one ends last.
        let (_, (end, job)) = self.written.range(..of.end).next_back()?;
        (*end > of.start).then_some(*job)
    }

    fn is_read(&self, of: Extent) -> bool {
        let from = (of.start.saturating_sub(self.longest), 0);
        self.read
            .range(from..(of.end, 0))
            .any(|((_, end), _)| *end > of.start)
    }

    fn add(&mut self, job: u64, extent: Extent) {
        if extent.is_written() {
            self.written.insert(extent.start, (extent.end, job));
            return;
        }
        *self.read.entry((extent.start, extent.end)).or_default() += 1;
        self.longest = self.longest.max(extent.end - extent.start);
    }

    fn remove(&mut self, extent: Extent) {
        if extent.is_written() {
            self.written.remove(&extent.start);
            return;
        }
        let key = (extent.start, extent.end);
        if let Some(count) = self.read.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.read.remove(&key);
            }
        }
        if self.read.is_empty() {
            self.longest = 0;
        }
    }
}

/// The memory that the live jobs of a process use.
pub(crate) struct BorrowTracker {
    process: Process,
    borrows: Mutex<Borrows>,
}

impl Default for BorrowTracker {
    fn default() -> Self {
        Self {
            process: Process::current(),
            borrows: Mutex::default(),
        }
    }
}

impl BorrowTracker {
    /// The tracker of this process. The child of a fork has none of its parent's jobs.
    pub fn of_process() -> &'static Self {
        static TRACKER: PerProcess<BorrowTracker> = PerProcess::new();
        TRACKER.get()
    }

    fn lock(&self) -> MutexGuard<'_, Borrows> {
        self.borrows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows extents for a job until the guard is dropped. If it fails, nothing is borrowed.
    pub fn borrow(
        &'static self,
        job: u64,
        mut extents: Vec<Extent>,
    ) -> Result<BorrowGuard, Conflict> {
        for (i, extent) in extents.iter().enumerate().filter(|(_, it)| it.is_written()) {
            let mut others = extents.iter().enumerate().filter(|(j, _)| i != *j);
            if others.any(|(_, other)| extent.overlaps(*other)) {
                return Err(Conflict::SameJob(i));
            }
        }
        if !extents.iter().any(|extent| extent.is_tracked()) {
            return Ok(BorrowGuard::default());
        }
        let mut borrows = self.lock();
        for (i, extent) in extents.iter().enumerate().filter(|(_, it)| it.is_tracked()) {
            if let Some(writer) = borrows.writer(*extent) {
                return Err(Conflict::Written(i, writer));
            }
            if extent.is_written() && borrows.is_read(*extent) {
                return Err(Conflict::Read(i));
            }
        }
        extents.retain(|extent| extent.is_tracked());
        for extent in &extents {
            borrows.add(job, *extent);
        }
        drop(borrows);
        Ok(BorrowGuard {
            tracker: Some(self),
            extents,
        })
    }
}

/// Ends the borrows of a job when dropped.
#[derive(Default)]
pub(crate) struct BorrowGuard {
    tracker: Option<&'static BorrowTracker>,
    extents: Vec<Extent>,
}

impl Drop for BorrowGuard {
    fn drop(&mut self) {
        let Some(tracker) = self.tracker.filter(|it| it.process.is_current()) else {
            return;
        };
        let mut borrows = tracker.lock();
        for extent in &self.extents {
            borrows.remove(*extent);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Mutex;

    use super::{Access, BorrowGuard, BorrowTracker, Conflict, Extent};

    fn tracker() -> &'static BorrowTracker {
        // Kept, so that no tool reports a leak.
        static ALL: Mutex<Vec<&BorrowTracker>> = Mutex::new(Vec::new());
        let new = Box::leak(Box::<BorrowTracker>::default());
        ALL.lock().unwrap().push(new);
        new
    }

    fn extent(start: usize, end: usize, access: Access) -> Extent {
        Extent { start, end, access }
    }

    fn read(start: usize, end: usize) -> Extent {
        extent(start, end, Access::Read)
    }

    fn written(start: usize, end: usize) -> Extent {
        extent(start, end, Access::Write)
    }

    fn borrow(
        tracker: &'static BorrowTracker,
        job: u64,
        extents: &[Extent],
    ) -> Result<BorrowGuard, Conflict> {
        tracker.borrow(job, extents.to_vec())
    }

    #[test]
    fn many_read_or_one_writes() {
        let tracker = tracker();
        let borrow = |job, extents: &[Extent]| borrow(tracker, job, extents);
        let first = borrow(1, &[read(0, 100)]).unwrap();
        let second = borrow(2, &[read(0, 100), read(0, 50)]).unwrap();
        let refused = |extents: &[Extent]| borrow(9, extents).err();
        assert_eq!(refused(&[written(40, 60)]), Some(Conflict::Read(0)));
        drop(first);
        assert_eq!(refused(&[written(40, 60)]), Some(Conflict::Read(0)));
        drop(second);

        let third = borrow(3, &[written(40, 60), read(60, 100)]).unwrap();
        assert_eq!(
            refused(&[read(200, 201), read(0, 50)]),
            Some(Conflict::Written(1, 3))
        );
        assert_eq!(refused(&[written(0, 100)]), Some(Conflict::Written(0, 3)));
        // Memory beside it is free, and others may read what it reads.
        let beside = borrow(5, &[written(0, 40), read(60, 100)]).unwrap();
        drop((third, beside));
        let borrows = tracker.lock();
        assert!(borrows.written.is_empty() && borrows.read.is_empty() && borrows.longest == 0);
    }

    #[test]
    fn a_job_does_not_write_to_what_it_reads() {
        let tracker = tracker();
        let conflict = borrow(tracker, 9, &[written(0, 10), read(9, 100)]).err();
        assert_eq!(conflict, Some(Conflict::SameJob(0)));
        assert!(borrow(tracker, 1, &[read(0, 10), read(9, 100)]).is_ok());
    }

    #[test]
    fn immutable_memory_is_not_tracked() {
        let tracker = tracker();
        let immutable = extent(0, 100, Access::ReadImmutable);
        assert!(borrow(tracker, 1, &[immutable]).unwrap().extents.is_empty());
        let conflict = borrow(tracker, 1, &[written(0, 9), immutable]).err();
        assert_eq!(conflict, Some(Conflict::SameJob(0)));
        let both = borrow(tracker, 1, &[immutable, read(200, 201)]).unwrap();
        assert_eq!(both.extents, [read(200, 201)]);
        assert!(borrow(tracker, 1, &[]).unwrap().extents.is_empty());
    }
}
