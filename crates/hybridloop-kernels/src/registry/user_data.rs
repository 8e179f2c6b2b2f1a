//! The user data of kernel entries that want it back when their kernels are dropped.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hybridloop_kernel::abi;
use hybridloop_sync::fork;

/// The user data of one entry. Several kernels may be made from an entry; the data is dropped with the last one.
pub(crate) struct UserData {
    entry: usize,
    user: *mut c_void,
    drop: unsafe extern "C" fn(*mut c_void),
    /// Whether one of its kernels was ever registered. The data of a kernel that was refused is left alone, because the caller
    /// may offer it again.
    is_registered: AtomicBool,
}

// SAFETY: the interface demands that any thread may run a kernel with its user data, and drop the data.
unsafe impl Send for UserData {}
// SAFETY: a shared reference gives access to `is_registered` only, which is atomic.
unsafe impl Sync for UserData {}

/// The live user data by the address of its entry. A worker may drop the last kernel, so forks are blocked while it is locked.
static DATA: Mutex<BTreeMap<usize, Weak<UserData>>> = Mutex::new(BTreeMap::new());

impl UserData {
    /// The user data of the entry at `address`; `None` if the entry does not want it back.
    pub fn of(address: *const abi::Kernel, entry: &abi::Kernel) -> Option<Arc<Self>> {
        let drop = entry.drop?;
        let address = address.addr();
        let no_forks = fork::block();
        let mut data = DATA.lock().unwrap_or_else(PoisonError::into_inner);
        let found = data.get(&address).and_then(Weak::upgrade);
        let user_data = found.unwrap_or_else(|| {
            let new = Arc::new(Self {
                entry: address,
                user: entry.user,
                drop,
                is_registered: AtomicBool::new(false),
            });
            data.insert(address, Arc::downgrade(&new));
            new
        });
        std::mem::drop((data, no_forks));
        Some(user_data)
    }

    /// A kernel with this data was registered.
    pub fn mark_registered(&self) {
        self.is_registered.store(true, Ordering::Relaxed);
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        let no_forks = fork::block();
        let mut data = DATA.lock().unwrap_or_else(PoisonError::into_inner);
        // The same entry may have got new data meanwhile.
        if data
            .get(&self.entry)
            .is_some_and(|found| found.strong_count() == 0)
        {
            data.remove(&self.entry);
        }
        std::mem::drop((data, no_forks));
        if *self.is_registered.get_mut() {
            // SAFETY: the entry's own function for its own data. This is the only call: no kernel has the data any more.
            unsafe { (self.drop)(self.user) };
        }
    }
}
