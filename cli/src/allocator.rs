//! The program's allocator, and when it gives memory back to the system.
#![allow(unsafe_code)] // options are set by a function of the allocator's C library

use std::ffi::c_int;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Place of `mi_option_purge_delay` among the options of `mimalloc.h`: the milliseconds that freed memory is kept for
/// the next who asks.
const PURGE_DELAY: c_int = 15;

/// Freed memory is given back when it is freed, and not a second later as the allocator does by itself.
///
/// Within that second a job's next step takes memory beside what its last one freed, and control groups count both. A
/// budget counts what is in use, so a job that has one gives the rest back; the calls into the system cost it about two
/// hundredths of its time. It is called before other threads are started.
pub(crate) fn give_back_at_once() {
    // SAFETY: the function checks the option's number, and no other thread reads options while it writes one.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}
