//! Descriptors: their owners, registration and readiness.
//!
//! * [`registration`] — the table of descriptors; `add_reader` and related methods.
//! * [`watcher`] — one descriptor of the user: its reader and writer; [`files`] — file objects that stand for descriptors.
//! * [`readiness`] — the readiness of the sockets of `sock_*` methods.
//! * [`receive`] — `recv`, directly into a `bytes` object where that is faster.
//! * [`source`] — the interface of transports and listeners to the loop.

pub mod files;
pub mod readiness;
pub mod receive;
pub mod registration;
pub mod source;
pub mod watcher;
