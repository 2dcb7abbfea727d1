//! The program's allocator: dlmalloc behind a lock of one instruction.
//!
//! musl's own maps and unmaps pages for every few kilobytes. dlmalloc's own global form takes a mutex of pthread for
//! every call, which is a seventh of a short run; there is hardly ever a second thread here to keep out.

#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::Dlmalloc;

/// The allocator.
pub struct Allocator {
    busy: AtomicBool,
    heap: UnsafeCell<Dlmalloc>,
}

// SAFETY: the heap is touched by nobody but the thread that has set `busy`.
unsafe impl Sync for Allocator {}

impl Allocator {
    /// Nothing allocated yet.
    #[must_use]
    pub const fn new() -> Allocator {
        Allocator { busy: AtomicBool::new(false), heap: UnsafeCell::new(Dlmalloc::new()) }
    }

    /// Runs `work` on the heap, alone.
    #[inline]
    fn with<T>(&self, work: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            // Whoever has it may not be running: there are no more processors than threads.
            std::thread::yield_now();
        }
        // SAFETY: `busy` was false before, so no other reference is alive; dlmalloc calls nothing that allocates.
        let done = work(unsafe { &mut *self.heap.get() });
        self.busy.store(false, Ordering::Release);
        done
    }
}

impl Default for Allocator {
    fn default() -> Allocator {
        Allocator::new()
    }
}

// SAFETY: every call is passed on to dlmalloc, which keeps the promises of the trait, with the same layout.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        self.with(|heap| unsafe { heap.free(pointer, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        self.with(|heap| unsafe { heap.realloc(pointer, layout.size(), layout.align(), size) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_do_not_get_the_same_memory() {
        let allocator = Allocator::new();
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for round in 0..2000_usize {
                        let layout = Layout::from_size_align(1 + round % 700, 8).unwrap();
                        // SAFETY: the layout has a size.
                        let pointer = unsafe { allocator.alloc(layout) };
                        assert!(!pointer.is_null());
                        // SAFETY: it is as long as was asked for, and ours.
                        unsafe { pointer.write_bytes(mark, layout.size()) };
                        std::thread::yield_now();
                        // SAFETY: it has been written.
                        let held = unsafe { std::slice::from_raw_parts(pointer, layout.size()) };
                        assert!(held.iter().all(|byte| *byte == mark));
                        // SAFETY: it was allocated with this layout.
                        let pointer = unsafe { allocator.realloc(pointer, layout, layout.size() + 9) };
                        let layout = Layout::from_size_align(layout.size() + 9, 8).unwrap();
                        // SAFETY: the first bytes were written before it grew.
                        let held = unsafe { std::slice::from_raw_parts(pointer, layout.size() - 9) };
                        assert!(held.iter().all(|byte| *byte == mark));
                        // SAFETY: as above.
                        unsafe { allocator.dealloc(pointer, layout) };
                    }
                });
            }
        });
    }
}
