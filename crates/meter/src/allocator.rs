//! The system's allocator, with a count of what it gives (docs/adr/0036).
//!
//! A block of [`LARGE_BYTES`] or more has a head in which its owner stands, so that whoever frees it, on whatever
//! thread, takes it from the count that it was added to. Which blocks have one is told by their layout, which is the
//! same when they are freed. What is smaller is counted for whom the thread works.
//!
//! This is the only file of the analytics workspace with `unsafe` in it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use crate::count::{self, Owner};

/// Of a block, from which on it knows its owner.
const LARGE_BYTES: usize = 1024;
/// The owner stands in front of the block, and the head keeps the block aligned.
const HEAD_BYTES: usize = 16;

/// To be the `#[global_allocator]` of a program.
#[derive(Debug)]
pub struct Metered;

/// The layout with a head, and how far behind its beginning the block is. `None`: it has no head, or does not fit.
fn with_head(layout: Layout) -> Option<(Layout, usize)> {
    if layout.size() < LARGE_BYTES {
        return None;
    }
    let head = layout.align().max(HEAD_BYTES);
    let size = layout.size().checked_add(head)?;
    Some((Layout::from_size_align(size, head).ok()?, head))
}

/// The C library keeps what is freed between blocks that are not. What a statement had would be there beside what the next
/// one takes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    unsafe extern "C" {
        /// glibc's own, in `malloc.h`.
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

impl Metered {
    /// # Safety
    ///
    /// As [`GlobalAlloc::alloc`]; `allocates` gives a block of the layout that it is called with, or null.
    unsafe fn allocate(layout: Layout, allocates: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
        let Some((whole, head)) = with_head(layout) else {
            // A layout that is too large with a head has none of its own size either: no allocator gives it.
            if layout.size() >= LARGE_BYTES {
                return std::ptr::null_mut();
            }
            let block = allocates(layout);
            if !block.is_null() {
                count::add(layout.size());
            }
            return block;
        };
        let base = allocates(whole);
        if base.is_null() {
            return base;
        }
        // SAFETY: the block has `head` bytes more than were asked for, and `head` is at least 16.
        let block = unsafe { base.add(head) };
        let owner = count::add(whole.size());
        // SAFETY: the 8 bytes before the block are in its head, and aligned: `head` is a multiple of 16.
        unsafe { block.cast::<Owner>().sub(1).write(owner) };
        block
    }
}

// SAFETY: blocks are those of `System`, of layouts that are as large and as aligned as was asked for. What counting
// does neither allocates nor panics.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is that of the caller, who keeps it above 0, or larger.
        unsafe { Metered::allocate(layout, |layout| System.alloc(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { Metered::allocate(layout, |layout| System.alloc_zeroed(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((whole, head)) = with_head(layout) else {
            count::remove(layout.size());
            // SAFETY: small blocks are just as `System` gave them.
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: a block of this layout was given by `allocate`, with its owner before it and `head` bytes in all.
        unsafe {
            let owner = block.cast::<Owner>().sub(1).read();
            count::remove_of(owner, whole.size());
            System.dealloc(block.sub(head), whole);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps to the rules of layouts for the new size.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (with_head(layout), with_head(wanted)) {
            (Some((whole, head)), Some((new, _))) => {
                // SAFETY: as in `dealloc`. The head is as large as before, and moves with the block.
                unsafe {
                    let owner = block.cast::<Owner>().sub(1).read();
                    let base = System.realloc(block.sub(head), whole, new.size());
                    if base.is_null() {
                        return base;
                    }
                    count::resize_of(owner, whole.size(), new.size());
                    base.add(head)
                }
            }
            (None, None) if size < LARGE_BYTES => {
                // SAFETY: small blocks are just as `System` gave them.
                let moved = unsafe { System.realloc(block, layout, size) };
                if !moved.is_null() {
                    count::remove(layout.size());
                    count::add(size);
                }
                moved
            }
            // It gets a head, or loses it.
            _ => {
                // SAFETY: the new block is another one, and both have at least the bytes that are copied.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}
