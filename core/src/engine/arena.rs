//! A slab whose handles go stale: a [`Handle`] names one incarnation of a slot, so that what was removed can't be
//! mistaken for what took its place. Iteration is in slot order, the same on every run.
use alloc::vec::Vec;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Handle<T> {
    slot: u32,
    incarnation: u32,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    fn key(self) -> (u32, u32) {
        (self.slot, self.incarnation)
    }
}
impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<T> Eq for Handle<T> {}
impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
impl<T> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}
impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.incarnation)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Slot<T> {
    incarnation: u32,
    value: Option<T>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> Handle<T> {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).expect("limits keep arenas below 2^32");
            self.slots.push(Slot { incarnation: 0, value: None });
            slot
        });
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        Handle { slot, incarnation: entry.incarnation, of: PhantomData }
    }

    /// Panics if the handle is stale.
    pub fn remove(&mut self, handle: Handle<T>) -> T {
        let entry = &mut self.slots[handle.slot as usize];
        assert_eq!(entry.incarnation, handle.incarnation, "removed through a stale handle");
        entry.incarnation = entry.incarnation.wrapping_add(1);
        self.free.push(handle.slot);
        entry.value.take().expect("a slot of this incarnation is taken")
    }

    pub fn get(&self, handle: Handle<T>) -> Option<&T> {
        let entry = self.slots.get(handle.slot as usize)?;
        entry.value.as_ref().filter(|_| entry.incarnation == handle.incarnation)
    }

    pub fn get_mut(&mut self, handle: Handle<T>) -> Option<&mut T> {
        let entry = self.slots.get_mut(handle.slot as usize)?;
        entry.value.as_mut().filter(|_| entry.incarnation == handle.incarnation)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle<T>, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let handle =
                Handle { slot: slot as u32, incarnation: entry.incarnation, of: PhantomData };
            entry.value.as_ref().map(|value| (handle, value))
        })
    }
}

impl<T> Index<Handle<T>> for Arena<T> {
    type Output = T;
    fn index(&self, handle: Handle<T>) -> &T {
        self.get(handle).expect("the handle is of this incarnation")
    }
}

impl<T> IndexMut<Handle<T>> for Arena<T> {
    fn index_mut(&mut self, handle: Handle<T>) -> &mut T {
        self.get_mut(handle).expect("the handle is of this incarnation")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_names_one_incarnation() {
        let mut arena = Arena::default();
        let first = arena.insert('a');
        assert_eq!(arena.remove(first), 'a');
        let second = arena.insert('b');
        assert_eq!((arena.get(first), arena.get(second)), (None, Some(&'b')));
        assert_eq!(arena.len(), 1);
        assert_eq!(arena.iter().collect::<Vec<_>>(), [(second, &'b')]);
    }

    #[test]
    #[should_panic = "stale"]
    fn removing_twice_is_a_bug() {
        let mut arena = Arena::default();
        let handle = arena.insert('a');
        arena.remove(handle);
        arena.remove(handle);
    }
}
