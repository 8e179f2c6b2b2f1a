//! Memory that live jobs use: read by any number of them, or written by one.
//!
//! One book for all engines of the process, since a buffer may go to any of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hybridloop_sync::fork::Process;

use crate::error::SubmitError;
use crate::value::Arg;

/// A part of the memory, and whether it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    start: usize,
    end: usize,
    written: bool,
}

impl Stretch {
    fn of(arg: &Arg, written: bool) -> Option<Self> {
        match arg {
            Arg::Buffer(buffer) if !buffer.is_empty() => {
                let start = buffer.as_ptr().addr();
                Some(Self {
                    start,
                    end: start.saturating_add(buffer.len()),
                    written,
                })
            }
            _ => None,
        }
    }

    fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

#[derive(Default)]
struct Book {
    /// Where each stretch that is written begins, where it ends, and whose it is. None overlaps another.
    written: BTreeMap<usize, (usize, u64)>,
    /// By how many jobs each stretch is read.
    read: BTreeMap<(usize, usize), usize>,
    /// No stretch that is read is longer.
    longest: usize,
}

impl Book {
    fn writer(&self, of: Stretch) -> Option<u64> {
        // Of those that begin before its end, the last one ends last.
        let (_, (end, job)) = self.written.range(..of.end).next_back()?;
        (*end > of.start).then_some(*job)
    }

    fn is_read(&self, of: Stretch) -> bool {
        let from = (of.start.saturating_sub(self.longest), 0);
        self.read
            .range(from..(of.end, 0))
            .any(|((_, end), _)| *end > of.start)
    }

    fn add(&mut self, job: u64, stretch: Stretch) {
        if stretch.written {
            self.written.insert(stretch.start, (stretch.end, job));
            return;
        }
        *self.read.entry((stretch.start, stretch.end)).or_default() += 1;
        self.longest = self.longest.max(stretch.end - stretch.start);
    }

    fn remove(&mut self, stretch: Stretch) {
        if stretch.written {
            self.written.remove(&stretch.start);
            return;
        }
        let key = (stretch.start, stretch.end);
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

/// See the [module's documentation](self).
pub(crate) struct Loans {
    process: Process,
    book: Mutex<Book>,
}

impl Loans {
    fn new(process: Process) -> Self {
        Self {
            process,
            book: Mutex::default(),
        }
    }

    /// Those of this process. The child of a fork begins anew: its parent's jobs are not there, and the lock may be held.
    pub fn of_process() -> &'static Self {
        static CURRENT: AtomicPtr<Loans> = AtomicPtr::new(std::ptr::null_mut());
        let here = Process::current();
        loop {
            let current = CURRENT.load(Ordering::Acquire);
            // SAFETY: null, or below and never freed.
            if let Some(loans) = unsafe { current.as_ref() }.filter(|l| l.process == here) {
                return loans;
            }
            let new = Box::into_raw(Box::new(Self::new(here)));
            let published =
                CURRENT.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed);
            // SAFETY: just made; freed only if nobody else has seen it.
            unsafe {
                if published.is_ok() {
                    return &*new;
                }
                drop(Box::from_raw(new));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the arguments of a job until the loan is dropped. When it fails, nothing is entered.
    pub fn lend(
        &'static self,
        job: u64,
        args: &[Arg],
        out: &dyn Fn(usize) -> bool,
        name: &dyn Fn(usize) -> String,
    ) -> Result<Loan, SubmitError> {
        let mut all = args
            .iter()
            .enumerate()
            .filter_map(|(i, arg)| Some((i, Stretch::of(arg, out(i))?)))
            .collect::<Vec<_>>();
        for (i, stretch) in all.iter().filter(|(_, stretch)| stretch.written) {
            if all
                .iter()
                .any(|(j, other)| i != j && stretch.overlaps(*other))
            {
                let (name, job) = (name(*i), None);
                return Err(SubmitError::BufferInUse { name, job });
            }
        }
        // What nobody can write to need not be watched.
        all.retain(|(i, _)| !matches!(&args[*i], Arg::Buffer(buffer) if buffer.immutable));
        if all.is_empty() {
            return Ok(Loan::default());
        }
        let mut book = self.lock();
        for (i, stretch) in &all {
            if let Some(writer) = book.writer(*stretch) {
                let (name, job) = (name(*i), Some(writer));
                return Err(SubmitError::BufferInUse { name, job });
            }
            if stretch.written && book.is_read(*stretch) {
                return Err(SubmitError::BufferRead(name(*i)));
            }
        }
        for (_, stretch) in &all {
            book.add(job, *stretch);
        }
        drop(book);
        Ok(Loan {
            loans: Some(self),
            stretches: all.into_iter().map(|(_, stretch)| stretch).collect(),
        })
    }
}

/// What a job has borrowed, until this is dropped.
#[derive(Default)]
pub(crate) struct Loan {
    loans: Option<&'static Loans>,
    stretches: Box<[Stretch]>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(loans) = self.loans.filter(|loans| loans.process.is_current()) else {
            return;
        };
        let mut book = loans.lock();
        for stretch in &self.stretches {
            book.remove(*stretch);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Mutex;

    use super::{Loan, Loans};
    use crate::error::SubmitError;
    use crate::value::{Arg, Buffer};
    use hybridloop_sync::fork::Process;

    fn arg(data: &[u8]) -> Arg {
        // SAFETY: nothing runs.
        Arg::Buffer(unsafe { Buffer::new(0, data.as_ptr(), data.len()) })
    }

    fn loans() -> &'static Loans {
        // Kept, so that nobody takes it for a leak.
        static ALL: Mutex<Vec<&Loans>> = Mutex::new(Vec::new());
        let new = Box::leak(Box::new(Loans::new(Process::current())));
        ALL.lock().unwrap().push(new);
        new
    }

    fn lend(loans: &'static Loans, job: u64, args: &[Arg], out: bool) -> Result<Loan, SubmitError> {
        loans.lend(job, args, &|i| out && i == 0, &|i| format!("arg{i}"))
    }

    fn refused(loans: &'static Loans, args: &[Arg], out: bool) -> SubmitError {
        lend(loans, 9, args, out).err().unwrap()
    }

    #[test]
    fn many_read_and_one_writes() {
        let loans = loans();
        let memory = [0; 100];
        let (all, left, middle) = (arg(&memory), arg(&memory[..50]), arg(&memory[40..60]));
        let first = lend(loans, 1, std::slice::from_ref(&all), false).unwrap();
        let again = lend(loans, 2, &[all.clone(), left.clone()], false).unwrap();
        let read = SubmitError::BufferRead("arg0".into());
        assert_eq!(refused(loans, std::slice::from_ref(&middle), true), read);
        drop(first);
        assert_eq!(refused(loans, std::slice::from_ref(&middle), true), read);
        drop(again);

        let written = lend(loans, 3, &[middle.clone(), arg(&memory[60..])], true).unwrap();
        let in_use = |name: &str, job| SubmitError::BufferInUse {
            name: name.into(),
            job,
        };
        assert_eq!(
            refused(loans, &[arg(b"x"), left], false),
            in_use("arg1", Some(3))
        );
        assert_eq!(refused(loans, &[all], true), in_use("arg0", Some(3)));
        // Beside it is free, and so are other readers of what it reads.
        let beside = lend(loans, 5, &[arg(&memory[..40]), arg(&memory[60..])], true).unwrap();
        drop((written, beside));
        let book = loans.lock();
        assert!(book.written.is_empty() && book.read.is_empty() && book.longest == 0);
    }

    #[test]
    fn within_one_call() {
        let loans = loans();
        let memory = [0; 100];
        let both = [arg(&memory[..10]), arg(&memory[9..])];
        let own = SubmitError::BufferInUse {
            name: "arg0".into(),
            job: None,
        };
        assert_eq!(refused(loans, &both, true), own);
        assert!(lend(loans, 1, &both, false).is_ok());
    }

    #[test]
    fn what_cannot_change_is_not_watched() {
        let loans = loans();
        let memory = [0; 100];
        let mut fixed = arg(&memory);
        let Arg::Buffer(buffer) = &mut fixed else {
            unreachable!()
        };
        buffer.immutable = true;
        assert!(lend(loans, 1, &[fixed], false)
            .unwrap()
            .stretches
            .is_empty());
        assert!(lend(loans, 1, &[arg(&[])], true)
            .unwrap()
            .stretches
            .is_empty());
    }
}
