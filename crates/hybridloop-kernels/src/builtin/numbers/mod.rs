//! Arrays of f32 and f64. Any other format is a `TypeError`, gaps between elements a `ValueError`.

mod floats;
mod histogram;
mod sort;
mod sum;

use hybridloop_kernel::abi;

use crate::builtin::common::entry;

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<sum::sum>(),
    entry::<sum::dot>(),
    entry::<sort::sort>(),
    entry::<sort::argsort>(),
    entry::<histogram::histogram>(),
];
