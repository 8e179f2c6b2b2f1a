//! Buffers that the connections of a thread share, so that idle ones need none.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

thread_local! {
    static SPARE_PLAINTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPARE_CIPHERTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where a thread keeps one spare buffer.
pub struct Pool {
    spare: &'static LocalKey<RefCell<Vec<u8>>>,
    /// Larger buffers are dropped.
    max_capacity: usize,
}

/// For decrypted data.
pub static PLAINTEXT: Pool = Pool {
    spare: &SPARE_PLAINTEXT,
    max_capacity: 288 * 1024,
};

/// For encrypted data.
pub static CIPHERTEXT: Pool = Pool {
    spare: &SPARE_CIPHERTEXT,
    max_capacity: 128 * 1024,
};

impl Pool {
    /// The spare buffer, or a new one; it is empty.
    #[inline]
    pub fn take(&'static self) -> PooledBuffer {
        self.own(self.spare.take())
    }

    /// Has a buffer become the spare one when the result is dropped.
    #[inline]
    pub fn own(&'static self, data: Vec<u8>) -> PooledBuffer {
        PooledBuffer { data, pool: self }
    }
}

/// A buffer that becomes the spare one of its pool when it is dropped.
pub struct PooledBuffer {
    data: Vec<u8>,
    pool: &'static Pool,
}

impl PooledBuffer {
    /// Takes the buffer away from its pool.
    #[inline]
    pub fn into_vec(mut self) -> Vec<u8> {
        mem::take(&mut self.data)
    }
}

impl Deref for PooledBuffer {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.data
    }
}

impl DerefMut for PooledBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }
}

impl Drop for PooledBuffer {
    #[inline]
    fn drop(&mut self) {
        let mut data = mem::take(&mut self.data);
        if (1..=self.pool.max_capacity).contains(&data.capacity()) {
            data.clear();
            // A thread that is ending has no pool any more.
            let _ = self.pool.spare.try_with(|spare| spare.replace(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PLAINTEXT;

    #[test]
    fn buffers_go_back_to_the_pool_also_by_a_panic() {
        let mut buffer = PLAINTEXT.take();
        buffer.extend_from_slice(b"data");
        let data = buffer.as_ptr();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _buffer = buffer;
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        let again = PLAINTEXT.take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), data);
    }

    #[test]
    fn large_buffers_are_dropped() {
        let mut buffer = PLAINTEXT.take();
        buffer.reserve(PLAINTEXT.max_capacity + 1);
        drop(buffer);
        assert_eq!(PLAINTEXT.take().capacity(), 0);
    }
}
