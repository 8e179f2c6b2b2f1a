//! The arguments of a job, checked against the kernel's signature, with the borrows of their memory.

use std::sync::Arc;

use crate::arg::Arg;
use crate::error::SubmitError;
use crate::memory::borrows::{Access, BorrowGuard, BorrowTracker, Conflict, Extent};
use crate::memory::limit::MemoryLimit;
use crate::registry::kernel::Kernel;

/// What a job uses until it is done. The arguments are dropped before the borrows end.
#[derive(Default)]
pub(crate) struct Inputs {
    pub args: Vec<Arg>,
    _borrows: BorrowGuard,
}

impl Inputs {
    /// Checks the arguments for a job with this number, and borrows their memory. `out` becomes the argument for the parameter
    /// that is written, or the last one if the kernel has no signature. Small buffers that are not aligned are copied.
    pub fn bind(
        job: u64,
        kernel: &Kernel,
        mut args: Vec<Arg>,
        out: Option<Arg>,
        memory: &Arc<MemoryLimit>,
    ) -> Result<Self, SubmitError> {
        let has_out = out.is_some();
        if let Some(signature) = kernel.signature() {
            signature.bind(kernel.name(), &mut args, out)?;
        } else {
            args.extend(out);
        }
        let last = args.len();
        let is_out = |i: usize| match kernel.signature() {
            Some(signature) => signature.params.get(i).is_some_and(|param| param.out),
            None => has_out && i + 1 == last,
        };
        // A kernel may write to a buffer only through a parameter that is written.
        for (i, arg) in args.iter_mut().enumerate() {
            if let Arg::Buffer(buffer) = arg {
                buffer.writable &= is_out(i);
            }
        }
        let extents: Vec<_> = args
            .iter()
            .enumerate()
            .filter_map(|(i, arg)| extent(arg, is_out(i)))
            .collect();
        let borrows = if extents.is_empty() {
            BorrowGuard::default()
        } else {
            BorrowTracker::of_process()
                .borrow(job, extents)
                .map_err(|conflict| refusal(conflict, kernel, &args, is_out))?
        };
        // Borrowed, so no kernel writes to them.
        let params = kernel.signature().map(|signature| &signature.params);
        for (param, arg) in params.into_iter().flatten().zip(&mut args) {
            if let Some(aligned) = param.align(arg, memory)? {
                *arg = aligned;
            }
        }
        Ok(Self {
            args,
            _borrows: borrows,
        })
    }
}

/// The memory of a buffer, unless it is empty.
fn extent(arg: &Arg, is_out: bool) -> Option<Extent> {
    match arg {
        Arg::Buffer(buffer) if !buffer.is_empty() => {
            let addresses = buffer.addresses();
            Some(Extent {
                start: addresses.start,
                end: addresses.end,
                access: match (is_out, buffer.immutable) {
                    (true, _) => Access::Write,
                    (false, true) => Access::ReadImmutable,
                    (false, false) => Access::Read,
                },
            })
        }
        _ => None,
    }
}

#[cold]
fn refusal(
    conflict: Conflict,
    kernel: &Kernel,
    args: &[Arg],
    is_out: impl Fn(usize) -> bool,
) -> SubmitError {
    // Extents are numbered without the arguments that have none.
    let name = |extent_index: usize| {
        let i = (0..args.len())
            .filter(|i| extent(&args[*i], false).is_some())
            .nth(extent_index)
            .unwrap_or_default();
        match kernel.signature() {
            Some(signature) => signature
                .params
                .get(i)
                .map_or_else(String::new, |param| param.name.clone()),
            None if is_out(i) => "out".to_owned(),
            None => format!("arg{i}"),
        }
    };
    match conflict {
        Conflict::SameJob(i) => SubmitError::BufferInUse {
            name: name(i),
            job: None,
        },
        Conflict::Written(i, job) => SubmitError::BufferInUse {
            name: name(i),
            job: Some(job),
        },
        Conflict::Read(i) => SubmitError::BufferRead(name(i)),
    }
}
