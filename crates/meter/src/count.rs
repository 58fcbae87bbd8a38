//! What each owner of memory holds. Nothing here allocates but [`open`] and [`close`], and nothing panics: the allocator
//! calls it.
//!
//! A thread counts for one owner at a time, and tells of it after each [`BATCH_BYTES`] and whenever it turns to another.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who holds a block: a place in [`PLACES`], below the generation of the place. 0 is nobody.
pub type Owner = u64;

/// What a thread keeps to itself.
const BATCH_BYTES: i64 = 64 << 10;
/// Owners at the same time. Whoever finds no place is not counted.
const PLACES_MAX: usize = 16_384;

struct Place {
    held: AtomicI64,
    /// Even: it is free. A block that outlives its owner is of an earlier one.
    generation: AtomicU32,
    /// What it held when it was told to end; 0 before.
    condemned: AtomicI64,
}

static PLACES: [Place; PLACES_MAX] = [const {
    Place { held: AtomicI64::new(0), generation: AtomicU32::new(0), condemned: AtomicI64::new(0) }
}; PLACES_MAX];
/// Of all owners together.
static ALL: AtomicI64 = AtomicI64::new(0);
/// The most that this was since memory was given back to the system.
static MOST: AtomicI64 = AtomicI64::new(0);
/// So much that is free again is worth the milliseconds that giving it back takes.
const FREED_BYTES: i64 = 64 << 20;
/// Owners that are gone, whose tasks hold more than [`LEFT_BYTES`]: they are counted until they have ended.
static LEAVING: Mutex<Vec<(Owner, Instant)>> = Mutex::new(Vec::new());
/// What an owner may leave behind without being waited for. Small blocks that others free are counted for good.
const LEFT_BYTES: i64 = 8 << 20;
/// A task that is told to end has ended by then, and what is left was freed by others.
const LEAVING_TIME: Duration = Duration::from_secs(3);
/// Whoever holds less than this part of the limit goes on while others are waited for.
const SPARED_PART: i64 = 8;
/// What they may hold together.
static LIMIT: AtomicI64 = AtomicI64::new(i64::MAX);
/// Free places below [`FRESH`], the last to be given first.
static FREE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Places from here on were never given. The first one is nobody's.
static FRESH: AtomicU32 = AtomicU32::new(1);

struct Local {
    owner: Cell<Owner>,
    /// What the place does not know yet.
    delta: Cell<i64>,
    /// Below this it is told. It lies deeper while the thread uses up what it has reserved.
    low: Cell<i64>,
}

thread_local! {
    // Without a destructor, so that it is there for as long as the thread allocates.
    static LOCAL: Local =
        const { Local { owner: Cell::new(0), delta: Cell::new(0), low: Cell::new(-BATCH_BYTES) } };
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The place of an owner that is still there.
fn place(owner: Owner) -> Option<&'static Place> {
    let place = PLACES.get((owner & 0xffff_ffff) as usize).filter(|_| owner != 0)?;
    (u64::from(place.generation.load(Ordering::Relaxed)) == owner >> 32).then_some(place)
}

fn tell(owner: Owner, bytes: i64) {
    if let Some(place) = place(owner) {
        place.held.fetch_add(bytes, Ordering::Relaxed);
        let all = ALL.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if all > MOST.load(Ordering::Relaxed) {
            MOST.fetch_max(all, Ordering::Relaxed);
        }
    }
}

impl Local {
    fn change(&self, bytes: i64) {
        let delta = self.delta.get().saturating_add(bytes);
        if delta < BATCH_BYTES && delta > self.low.get() {
            self.delta.set(delta);
        } else {
            self.delta.set(0);
            self.low.set(-BATCH_BYTES);
            tell(self.owner.get(), delta);
        }
    }

    fn flush(&self) {
        let delta = self.delta.replace(0);
        self.low.set(-BATCH_BYTES);
        if delta != 0 {
            tell(self.owner.get(), delta);
        }
    }
}

/// Counts a block for whom the thread works, and says for whom.
pub fn add(bytes: usize) -> Owner {
    LOCAL.with(|local| {
        let owner = local.owner.get();
        if owner != 0 {
            local.change(signed(bytes));
        }
        owner
    })
}

pub fn remove(bytes: usize) {
    LOCAL.with(|local| {
        if local.owner.get() != 0 {
            local.change(-signed(bytes));
        }
    });
}

/// The same for a block whose owner is known.
pub fn remove_of(owner: Owner, bytes: usize) {
    change_of(owner, -signed(bytes));
}

pub fn resize_of(owner: Owner, from: usize, to: usize) {
    change_of(owner, signed(to) - signed(from));
}

fn change_of(owner: Owner, bytes: i64) {
    if owner == 0 {
        return;
    }
    LOCAL.with(|local| {
        if local.owner.get() == owner {
            local.change(bytes);
        } else {
            tell(owner, bytes);
        }
    });
}

/// For whom the thread works.
pub fn current() -> Owner {
    LOCAL.with(|local| local.owner.get())
}

/// From now on the thread works for `owner`. Gives for whom it did.
pub fn turn_to(owner: Owner) -> Owner {
    LOCAL.with(|local| {
        local.flush();
        local.owner.replace(owner)
    })
}

/// A new owner, or nobody where there are too many; and whether much was freed since this was last so.
pub fn open() -> (Owner, bool) {
    let is_freed = sweep();
    (opened(), is_freed)
}

fn opened() -> Owner {
    let reused = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let index = match reused {
        Some(index) => index,
        None => match FRESH.fetch_add(1, Ordering::Relaxed) {
            index if (index as usize) < PLACES_MAX => index,
            _ => {
                FRESH.fetch_sub(1, Ordering::Relaxed);
                return 0;
            }
        },
    };
    let place = &PLACES[index as usize];
    place.held.store(0, Ordering::Relaxed);
    place.condemned.store(0, Ordering::Relaxed);
    let generation = place.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    u64::from(generation) << 32 | u64::from(index)
}

/// The owner is gone. What its tasks hold is counted until they have ended, which they are told to. Gives whether much was
/// freed since this was last so.
pub fn close(owner: Owner) -> bool {
    let Some(place) = place(owner) else { return false };
    let held = place.held.load(Ordering::Relaxed);
    if held <= LEFT_BYTES {
        return end(owner);
    }
    place.condemned.store(held, Ordering::Relaxed);
    LEAVING.lock().unwrap_or_else(PoisonError::into_inner).push((owner, Instant::now()));
    false
}

/// Ends owners whose tasks have ended, as far as can be told.
fn sweep() -> bool {
    let mut leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut is_freed = false;
    leaving.retain(|(owner, since)| {
        let holds = place(*owner).is_some_and(|place| place.held.load(Ordering::Relaxed) > LEFT_BYTES);
        let stays = holds && since.elapsed() < LEAVING_TIME;
        if !stays {
            is_freed |= end(*owner);
        }
        stays
    });
    is_freed
}

/// What an owner holds still is nobody's from now on.
fn end(owner: Owner) -> bool {
    let Some(place) = place(owner) else { return false };
    place.generation.fetch_add(1, Ordering::Relaxed);
    let held = place.held.swap(0, Ordering::Relaxed);
    let all = ALL.fetch_sub(held, Ordering::Relaxed).saturating_sub(held);
    FREE.lock().unwrap_or_else(PoisonError::into_inner).push((owner & 0xffff_ffff) as u32);
    let most = MOST.load(Ordering::Relaxed);
    most.saturating_sub(all) > FREED_BYTES
        && MOST.compare_exchange(most, all, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// All owners together are to hold no more than this.
pub fn limit(bytes: u64) {
    LIMIT.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
}

/// What an owner holds, as far as its threads have told.
pub fn held(owner: Owner) -> u64 {
    place(owner).map_or(0, |place| place.held.load(Ordering::Relaxed).max(0).unsigned_abs())
}

/// What is held is too much: by whom the thread works for, and by all, where so much may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    pub held_bytes: u64,
    pub limit_bytes: u64,
}

/// Nobody waits any more for what the thread does, so that it need not go on.
fn over() -> TooMuch {
    TooMuch { held_bytes: 0, limit_bytes: LIMIT.load(Ordering::Relaxed).max(0).unsigned_abs() }
}

/// Whether whoever the thread works for may go on. Where all hold too much, whoever holds most may not; and neither may a
/// task that has outlived its owner, since what it takes is counted for nobody.
pub fn check() -> Result<(), TooMuch> {
    LOCAL.with(|local| {
        let owner = local.owner.get();
        let Some(place) = place(owner) else { return if owner == 0 { Ok(()) } else { Err(over()) } };
        let all = ALL.load(Ordering::Relaxed).saturating_add(local.delta.get());
        if all <= LIMIT.load(Ordering::Relaxed) && place.condemned.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        local.flush();
        weigh(place, 0)
    })
}

/// Takes as much as will be allocated by the next call before it is, so that many at once do not all find room. Gives
/// whom it was taken for.
pub fn reserve(bytes: u64) -> Result<Owner, TooMuch> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    LOCAL.with(|local| {
        let owner = local.owner.get();
        let Some(place) = place(owner) else { return if owner == 0 { Ok(0) } else { Err(over()) } };
        local.flush();
        tell(owner, bytes);
        if let Err(error) = weigh(place, bytes) {
            tell(owner, -bytes);
            return Err(error);
        }
        local.delta.set(-bytes);
        local.low.set(-bytes - BATCH_BYTES);
        Ok(owner)
    })
}

/// What was reserved and not allocated is free again.
pub fn release() {
    LOCAL.with(Local::flush);
}

/// Finds out who is too much. `wanted` is part of what the owner holds, and not yet taken.
fn weigh(own: &Place, wanted: i64) -> Result<(), TooMuch> {
    let limit = LIMIT.load(Ordering::Relaxed);
    let too_much = |held: i64| TooMuch {
        held_bytes: held.max(0).unsigned_abs(),
        limit_bytes: limit.max(0).unsigned_abs(),
    };
    let told = own.condemned.load(Ordering::Relaxed);
    if told != 0 {
        return Err(too_much(told));
    }
    let held = own.held.load(Ordering::Relaxed);
    if ALL.load(Ordering::Relaxed) <= limit {
        return Ok(());
    }
    sweep();
    let last = (FRESH.load(Ordering::Relaxed) as usize).min(PLACES_MAX);
    let mut heaviest: Option<(i64, &Place)> = None;
    let mut all = 0_i64;
    for place in &PLACES[1..last] {
        // Those that are told to end give back what they hold soon, unless they take too long.
        if place.condemned.load(Ordering::Relaxed) != 0 {
            continue;
        }
        let held = place.held.load(Ordering::Relaxed);
        all = all.saturating_add(held);
        if heaviest.is_none_or(|(most, _)| held > most) {
            heaviest = Some((held, place));
        }
    }
    let is_far = ALL.load(Ordering::Relaxed) > limit.saturating_add(limit / 2);
    match heaviest {
        _ if all <= limit && !is_far => Ok(()),
        // Whoever holds little did not bring it about, and would not end it.
        Some((most, _)) if all <= limit && most < limit / SPARED_PART => Ok(()),
        Some((most, place)) if !std::ptr::eq(place, own) => {
            place.condemned.store(most.max(1), Ordering::Relaxed);
            Ok(())
        }
        _ => {
            // A call that would take too much fails, and what was there before it may stay.
            if wanted == 0 {
                own.condemned.store(held.max(1), Ordering::Relaxed);
            }
            Err(too_much(held))
        }
    }
}
