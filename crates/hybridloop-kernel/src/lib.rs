//! Write native kernels for hybridloop in Rust.
//!
//! ```
//! use hybridloop_kernel::{kernel, module, Ctx, Error};
//!
//! /// The sum of the squares.
//! #[kernel(name = "demo.sum_of_squares")]
//! fn sum_of_squares(ctx: &Ctx, values: &[f64]) -> Result<f64, Error> {
//!     let mut sum = 0.0;
//!     for (i, part) in values.chunks(4096).enumerate() {
//!         ctx.check()?; // ends the kernel when the job is cancelled or its deadline passes
//!         ctx.progress(4096 * i as u64, values.len() as u64);
//!         sum += part.iter().map(|x| x * x).sum::<f64>();
//!     }
//!     Ok(sum)
//! }
//!
//! module!("demo", [sum_of_squares]);
//! ```
//!
//! Build it as a `cdylib`, and `hybridloop.load_kernels()` loads the library, with any version of Python. A panic becomes an
//! error of the job. See `docs/kernels.md` in the repository, and `include/hybridloop.h` for the interface in C.

pub mod abi;
mod args;
mod buf;
mod bus;
mod channel;
mod ctx;
mod element;
mod error;
mod export;
mod memory;
mod panics;
mod results;
mod token;
mod value;

pub use abi::Host;
pub use args::FromArg;
pub use buf::Buf;
pub use bus::{Bus, BusWriter, Key};
pub use channel::Channel;
pub use ctx::Ctx;
pub use element::Element;
pub use error::{Code, Error};
pub use export::Export;
pub use hybridloop_kernel_macros::kernel;
pub use memory::Memory;
pub use results::{Array, IntoResult, Output, Returns};
pub use token::{Pending, Token};
pub use value::Value;

/// What the macros expand to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::{call, signature, signature_len, Call};
}
