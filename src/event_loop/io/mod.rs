//! Descriptors: who has registered which, and what is known of their readiness.
//!
//! * [`registration`] — who owns which descriptor; `add_reader` and related methods.
//! * [`watcher`] — one descriptor of the user: its reader and writer; [`files`] — file objects that stand for descriptors.
//! * [`readiness`] — what is known of the sockets of `sock_*` methods.
//! * [`receive`] — `recv`, into the object that is handed over where that is faster.
//! * [`source`] — the interface of transports and listeners, as the loop sees it.

pub mod files;
pub mod readiness;
pub mod receive;
pub mod registration;
pub mod source;
pub mod watcher;
