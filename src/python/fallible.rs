//! Collections that report a lack of memory.

use std::collections::VecDeque;

/// Appends `item`, or returns it if there is no memory for it.
#[inline]
pub fn push_back<T>(queue: &mut VecDeque<T>, item: T) -> Result<(), T> {
    if queue.len() == queue.capacity() && !grow(queue) {
        return Err(item);
    }
    queue.push_back(item);
    Ok(())
}

#[cold]
fn grow<T>(queue: &mut VecDeque<T>) -> bool {
    queue.try_reserve(1).is_ok()
}
