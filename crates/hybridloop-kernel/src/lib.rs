#![doc = include_str!("../README.md")]

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
